exports.handler = async () => {
  setTimeout(() => {
    throw new RangeError('from a timer');
  }, 1);
  await new Promise(() => {});
};
