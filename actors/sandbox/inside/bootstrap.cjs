// Runs a Node handler inside the sandbox: asks for the invocation, calls the handler, posts what it returned.
// Speaks the AWS Lambda Runtime API. Authors see `handler(event, context)` with `context.trace.query(...)` and
// `context.trace.emit([...])`; both return promises.
'use strict';
const http = require('node:http');
const path = require('node:path');
const fs = require('node:fs');
const { pathToFileURL } = require('node:url');

const RUNTIME = '/2018-06-01/runtime';
const [HOST, PORT] = process.env.AWS_LAMBDA_RUNTIME_API.split(':');
const AGENT = new http.Agent({ keepAlive: true, maxSockets: 4 });
const SUFFIXES = ['', '.js', '.cjs', '.mjs'];

class TraceError extends Error {
  constructor(status, message) {
    super(`${status}: ${message}`);
    this.name = 'TraceError';
    this.status = status;
  }
}

function call(method, route, body = '', type = 'application/json') {
  const data = Buffer.from(body);
  return new Promise((resolve, reject) => {
    const headers = { 'Content-Type': type, 'Content-Length': data.length };
    const request = http.request({ host: HOST, port: PORT, method, path: route, agent: AGENT, headers }, (answer) => {
      const pieces = [];
      answer.on('data', (piece) => pieces.push(piece));
      answer.on('error', reject);
      answer.on('end', () =>
        resolve({ status: answer.statusCode, headers: answer.headers, body: Buffer.concat(pieces) }));
    });
    request.on('error', reject);
    request.end(data);
  });
}

async function ours(route, body, type) {
  const answer = await call('POST', route, body, type);
  if (answer.status >= 300) throw new TraceError(answer.status, answer.body.toString().slice(0, 1000));
  return answer.body;
}

class Context {
  constructor(headers) {
    const env = process.env;
    this.deadlineMs = Number(headers['lambda-runtime-deadline-ms']);
    this.awsRequestId = headers['lambda-runtime-aws-request-id'];
    this.invokedFunctionArn = headers['lambda-runtime-invoked-function-arn'];
    this.functionName = env.AWS_LAMBDA_FUNCTION_NAME;
    this.functionVersion = env.AWS_LAMBDA_FUNCTION_VERSION;
    this.memoryLimitInMB = env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE;
    this.logGroupName = env.AWS_LAMBDA_LOG_GROUP_NAME;
    this.logStreamName = env.AWS_LAMBDA_LOG_STREAM_NAME;
    this.callbackWaitsForEmptyEventLoop = true;
    this.trace = {
      requestId: this.awsRequestId,
      remainingMs: () => this.getRemainingTimeInMillis(),
      // rows as objects with `columns` and `truncated`; with format 'arrow' a Buffer of an Arrow IPC stream
      query: async (sql, { datasetId, limit, format = 'json' } = {}) => {
        const asked = JSON.stringify({ sql, dataset_id: datasetId, limit, format });
        const body = await ours('/trace/v1/query', asked, 'application/json');
        if (format === 'arrow') return body;
        const answer = JSON.parse(body);
        const names = answer.columns.map((column) => column.name);
        const rows = answer.rows.map((row) => Object.fromEntries(names.map((name, place) => [name, row[place]])));
        return Object.assign(rows, { columns: answer.columns, truncated: Boolean(answer.truncated) });
      },
      emit: async (events) => {
        const lines = events.map((event) => JSON.stringify(event));
        if (lines.length) await ours('/trace/v1/events', lines.join('\n'), 'application/x-ndjson');
      },
    };
  }

  getRemainingTimeInMillis() {
    return Math.max(0, this.deadlineMs - Date.now());
  }
}

async function postError(route, error) {
  const known = error instanceof Error;
  const told = {
    errorType: known ? error.name : 'Error',
    errorMessage: String(known ? error.message : error).slice(0, 4000),
    stackTrace: known ? String(error.stack).split('\n').slice(1, 17) : [],
  };
  await call('POST', route, JSON.stringify(told).slice(0, 60000));
}

async function load() {
  if (process.env._HANDLER === '-') {
    const answer = await call('GET', '/trace/v1/handler');
    Object.assign(process.env, JSON.parse(answer.body));
  }
  const given = process.env._HANDLER;
  const dot = given.lastIndexOf('.');
  const base = path.join(process.env.LAMBDA_TASK_ROOT, given.slice(0, dot));
  const file = SUFFIXES.map((suffix) => base + suffix).find((each) => fs.statSync(each, { throwIfNoEntry: false })?.isFile());
  if (file === undefined) throw new Error(`there is no module for the handler ${given}`);
  const found = await imported(file);
  const handler = found[given.slice(dot + 1)] ?? found.default?.[given.slice(dot + 1)];
  if (typeof handler !== 'function') throw new Error(`${given} is no function`);
  return handler;
}

async function imported(file) {
  if (!file.endsWith('.mjs')) {
    try {
      return require(file);
    } catch (error) {
      if (error.code !== 'ERR_REQUIRE_ESM') throw error;
    }
  }
  return import(pathToFileURL(file).href);
}

function run(handler, event, context) {
  if (handler.length < 3) return handler(event, context);
  return new Promise((resolve, reject) => {
    handler(event, context, (error, value) => (error ? reject(error) : resolve(value)));
  });
}

async function main() {
  let handler;
  try {
    handler = await load();
  } catch (error) {
    await postError(`${RUNTIME}/init/error`, error);
    process.exit(1);
  }
  for (;;) {
    const invocation = await call('GET', `${RUNTIME}/invocation/next`);
    const context = new Context(invocation.headers);
    const route = `${RUNTIME}/invocation/${context.awsRequestId}`;
    const failed = async (error) => {
      await postError(`${route}/error`, error);
      process.exit(1);
    };
    process.on('uncaughtException', failed);
    try {
      const answer = JSON.stringify(await run(handler, JSON.parse(invocation.body), context));
      await call('POST', `${route}/response`, answer ?? 'null');
    } catch (error) {
      await failed(error);
    }
  }
}

main();
