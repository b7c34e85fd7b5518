exports.handler = async (event, context) => {
  const asked = Array.from({ length: 24 }, (_, n) => context.trace.query(String(n)));
  return (await Promise.all(asked)).map((rows) => rows[0].n);
};
