const { Worker } = require('node:worker_threads');

exports.handler = async () => {
  for (;;) {
    await new Promise((resolve, reject) => {
      const worker = new Worker('setInterval(() => {}, 1000)', { eval: true });
      worker.on('online', resolve);
      worker.on('error', reject);
    });
  }
};
