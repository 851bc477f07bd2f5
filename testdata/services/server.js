// Counts visits in PostgreSQL and in Redis, both found by their names.
const http = require('http');
const pg = require('pg');
const redis = require('redis');

const db = new pg.Pool({ host: 'db', user: 'postgres', password: process.env.POSTGRES_PASSWORD });
db.on('error', (e) => console.error(e.message));
const cache = redis.createClient({ url: 'redis://cache:6379' });
cache.on('error', (e) => console.error(e.message));

const server = http.createServer(async (req, res) => {
  try {
    await db.query('CREATE TABLE IF NOT EXISTS visits (at timestamptz DEFAULT now())');
    await db.query('INSERT INTO visits DEFAULT VALUES');
    const { rows } = await db.query('SELECT count(*)::int AS n FROM visits');
    const hits = await cache.incr('hits');
    res.end(`visits ${rows[0].n} hits ${hits}\n`);
  } catch (e) {
    console.error(e.message);
    res.statusCode = 500;
    res.end(e.message + '\n');
  }
});
cache.connect().then(() => server.listen(3000, '::', () => console.log('listening')));
process.on('SIGTERM', () => process.exit(0));
