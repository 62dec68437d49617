// node-postgres: what applications do with it. Where to connect is in libpq's variables.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');
const copy = require('pg-copy-streams');

const checks = {
  async 'values of every common type come back as they went'() {
    await connected(async (client) => {
      const values = [
        ['int4', 42], ['int8', '1152921504606846976'], ['float8', 1.5], ['numeric', '1234.5678'], ['text', "ünï'\\\n"],
        ['bool', true], ['jsonb', { a: [1, null] }], ['int4[]', [1, null, 3]], ['text[]', ['a,b', '"q"', null]],
        ['bytea', Buffer.from([0, 255, 92])], ['timestamptz', new Date('2024-02-29T12:30:00Z')], ['text', null],
      ];
      for (const [type, value] of values) {
        const { rows } = await client.query(`SELECT $1::${type} AS value`, [value]);
        assert.deepEqual(rows[0].value, value, type);
      }
    });
  },

  async 'named statements are prepared once and reused by many connections'() {
    await connected(async (one) => connected(async (other) => {
      for (let n = 0; n < 50; n++) {
        for (const client of [one, other]) {
          const { rows } = await client.query({ name: 'plus', text: 'SELECT $1::int + 1 AS n', values: [n] });
          assert.equal(rows[0].n, n + 1);
        }
      }
      // The same name is another statement for another client.
      const named = { name: 'which', values: [] };
      assert.equal((await one.query({ ...named, text: "SELECT 'one' AS w" })).rows[0].w, 'one');
      assert.equal((await other.query({ ...named, text: "SELECT 'other' AS w" })).rows[0].w, 'other');
      assert.equal((await one.query({ ...named, text: "SELECT 'one' AS w" })).rows[0].w, 'one');
    }));
  },

  async 'transactions are committed and rolled back'() {
    await connected(async (client) => {
      await client.query('CREATE TABLE tx (n int PRIMARY KEY)');
      await client.query('BEGIN');
      await client.query('INSERT INTO tx VALUES ($1)', [1]);
      await client.query('SAVEPOINT s');
      await assert.rejects(client.query('INSERT INTO tx VALUES ($1)', [1]), { code: '23505' });
      await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
      await client.query('ROLLBACK TO s');
      await client.query('COMMIT');
      await client.query('BEGIN');
      await client.query('INSERT INTO tx VALUES ($1)', [2]);
      await client.query('ROLLBACK');
      const { rows } = await client.query({ text: 'SELECT n FROM tx', rowMode: 'array' });
      assert.deepEqual(rows, [[1]]);
    });
  },

  async 'errors have their code and fields, and the connection goes on'() {
    await connected(async (client) => {
      await client.query('CREATE TABLE strict (n int CONSTRAINT small CHECK (n < 10))');
      await assert.rejects(client.query('INSERT INTO strict VALUES ($1)', [11]), {
        code: '23514', constraint: 'small', table: 'strict', severity: 'ERROR',
      });
      await assert.rejects(client.query('SELEC 1'), { code: '42601' });
      await assert.rejects(client.query({ name: 'bad', text: 'SELECT * FROM nowhere' }), { code: '42P01' });
      assert.equal((await client.query('SELECT 1 AS n')).rows[0].n, 1);
    });
  },

  async 'several statements in one query give several results'() {
    await connected(async (client) => {
      const results = await client.query('SELECT 1 AS a; SELECT 2 AS b; SELECT generate_series(1, 3) AS c');
      assert.deepEqual(results.map((result) => result.rowCount), [1, 1, 3]);
    });
  },

  async 'queries that are queued are answered in order'() {
    await connected(async (client) => {
      const asked = Array.from({ length: 300 }, (_, n) => client.query('SELECT $1::int AS n', [n]));
      const rows = (await Promise.all(asked)).map((result) => result.rows[0].n);
      assert.deepEqual(rows, Array.from({ length: 300 }, (_, n) => n));
    });
  },

  async 'COPY in and out'() {
    await connected(async (client) => {
      await client.query('CREATE TABLE copied (n int, text text)');
      const lines = Array.from({ length: 5000 }, (_, n) => `${n}\trow ${n}\n`);
      await pipeline(Readable.from(lines), client.query(copy.from('COPY copied FROM STDIN')));
      let text = '';
      const stream = client.query(copy.to('COPY (SELECT * FROM copied ORDER BY n) TO STDOUT'));
      for await (const piece of stream) text += piece;
      assert.equal(text, lines.join(''));
      const bad = client.query(copy.from('COPY copied FROM STDIN'));
      await assert.rejects(pipeline(Readable.from(['1\tx\n', 'bad\tx\n']), bad), { code: '22P02' });
      assert.equal((await client.query('SELECT count(*)::int AS n FROM copied')).rows[0].n, 5000);
    });
  },

  async 'cursors read in pieces'() {
    await connected(async (client) => {
      await client.query('BEGIN');
      const cursor = client.query(new Cursor('SELECT generate_series(1, $1::int) AS n', [1000]));
      let total = 0;
      for (let rows = await cursor.read(70); rows.length > 0; rows = await cursor.read(70)) {
        total += rows.reduce((sum, row) => sum + row.n, 0);
      }
      assert.equal(total, 500500);
      await cursor.close();
      await client.query('COMMIT');
    });
  },

  async 'a statement time-out ends the statement only'() {
    await connected(async (client) => {
      await assert.rejects(client.query('SELECT pg_sleep(600)'), { code: '57014' });
      assert.equal((await client.query('SHOW statement_timeout')).rows[0].statement_timeout, '100ms');
    }, { statement_timeout: 100 });
  },

  async 'settings are a connection\'s own'() {
    const options = { options: '-c search_path=mine', application_name: 'its own' };
    await connected(async (one) => connected(async (other) => {
      for (let n = 0; n < 5; n++) {
        assert.equal((await one.query('SHOW search_path')).rows[0].search_path, 'mine');
        assert.equal((await other.query('SHOW search_path')).rows[0].search_path, '"$user", public');
        assert.equal((await one.query('SHOW application_name')).rows[0].application_name, 'its own');
      }
    }), options);
  },

  async 'notifications arrive'() {
    await connected(async (listener) => connected(async (sender) => {
      const heard = once(listener, 'notification');
      await listener.query('LISTEN driver');
      await sender.query("SELECT pg_notify('driver', 'hello')");
      assert.equal((await heard)[0].payload, 'hello');
    }));
  },

  async 'a wrong password and an unknown tenant are refused'() {
    await assert.rejects(connected(() => {}, { password: 'wrong' }), { code: '28P01' });
    await assert.rejects(connected(() => {}, { database: 'nowhere' }), { code: '3D000' });
  },

  async 'a pool of the application works for many at once'() {
    const pool = new Pool({ max: 40 });
    await pool.query('CREATE TABLE pooled (n int)');
    const work = async (n) => {
      const client = await pool.connect();
      try {
        await client.query('BEGIN');
        await client.query({ name: 'put', text: 'INSERT INTO pooled VALUES ($1)', values: [n] });
        await client.query('COMMIT');
      } finally {
        client.release();
      }
    };
    await Promise.all(Array.from({ length: 800 }, (_, n) => work(n)));
    const { rows } = await pool.query('SELECT count(DISTINCT n)::int AS n FROM pooled');
    assert.equal(rows[0].n, 800);
    await pool.end();
  },
};

async function connected(use, options = {}) {
  const client = new Client(options);
  client.on('error', () => {}); // it is told to whoever waits for an answer, as well
  await client.connect();
  try {
    return await use(client);
  } finally {
    await client.end();
  }
}

async function main() {
  let [passed, failed] = [0, 0];
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      passed += 1;
      console.log(`ok      ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED  ${name}\n`, error);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

main();
