const fs = require('node:fs');
const net = require('node:net');

exports.handler = async (event) => {
  const got = [];
  for (const file of ['/etc/passwd', '/proc/1/environ', '/proc/self/environ', event.planted]) {
    try {
      got.push([file, fs.readFileSync(file, 'utf8').slice(0, 200)]);
    } catch {}
  }
  for (const file of ['/var/task/mine', '/opt/mine', '/dev/shm/mine', '/mine']) {
    try {
      fs.writeFileSync(file, 'x');
      got.push(file);
    } catch {}
  }
  const refused = await new Promise((resolve) => {
    net.connect(event.port, '127.0.0.1').on('connect', () => resolve('connected')).on('error', (error) => resolve(error.code));
  });
  return { got, refused, names: Object.keys(process.env).sort() };
};
