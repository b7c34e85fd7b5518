export const handler = async (event, context) => ({ esm: event, left: context.getRemainingTimeInMillis() > 0 });
