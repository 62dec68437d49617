"""asyncpg: every query is a prepared statement, and its pools reset what they take back."""

import asyncio
import datetime
import decimal
import json
import uuid

import asyncpg

from checks import check, raises, run


async def connect(**more):
    return await asyncpg.connect(**more)


@check
async def types():
    """values of every common type come back as they went"""
    connection = await connect()
    values = {
        "int4": 42,
        "int8": -(2**60),
        "float8": 1.5,
        "numeric": decimal.Decimal("1234.5678"),
        "text": "ünï'\\\n",
        "bytea": b"\x00\xff",
        "bool": True,
        "uuid": uuid.uuid4(),
        "date": datetime.date(2024, 2, 29),
        "timestamptz": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
        "interval": datetime.timedelta(days=1, seconds=5),
        "int4[]": [1, None, 3],
        "jsonb": '{"a": [1, null]}',
    }
    for name, value in values.items():
        assert await connection.fetchval(f"SELECT $1::{name}", value) == value, name
    await connection.execute("CREATE TYPE color AS ENUM ('red', 'green')")
    await connection.execute("CREATE TYPE point3 AS (x int, y int, z color)")
    row = await connection.fetchval("SELECT $1::point3", (1, 2, "red"))
    assert tuple(row) == (1, 2, "red")
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    assert await connection.fetchval("SELECT $1::jsonb", {"a": 1}) == {"a": 1}
    await connection.close()


@check
async def prepared():
    """statements are prepared once and reused by many connections"""
    connections = [await connect() for _ in range(5)]
    statements = [await connection.prepare("SELECT $1::int + 1") for connection in connections]
    for n in range(50):
        got = await asyncio.gather(*(statement.fetchval(n) for statement in statements))
        assert got == [n + 1] * 5
    for n in range(150):
        assert await connections[0].fetchval(f"SELECT {n} + $1::int", n) == 2 * n
    await asyncio.gather(*(connection.close() for connection in connections))


@check
async def transactions():
    """transactions are committed, rolled back, and nested"""
    connection = await connect()
    await connection.execute("CREATE TABLE tx (n int PRIMARY KEY)")
    async with connection.transaction():
        await connection.execute("INSERT INTO tx VALUES (1)")
        with raises(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.execute("INSERT INTO tx VALUES (2), (1)")
        await connection.execute("INSERT INTO tx VALUES ($1)", 3)
    with raises(ZeroDivisionError):
        async with connection.transaction(isolation="serializable"):
            await connection.execute("INSERT INTO tx VALUES (4)")
            1 / 0
    rows = await connection.fetch("SELECT n FROM tx ORDER BY n")
    assert [row["n"] for row in rows] == [1, 3]
    await connection.close()


@check
async def failures():
    """errors have their class and fields, and the connection goes on"""
    connection = await connect()
    await connection.execute("CREATE TABLE strict (n int CONSTRAINT small CHECK (n < 10))")
    with raises(asyncpg.CheckViolationError) as caught:
        await connection.execute("INSERT INTO strict VALUES ($1)", 11)
    assert caught.error.constraint_name == "small" and caught.error.table_name == "strict"
    with raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT * FROM nowhere WHERE n = $1", 1)
    with raises(asyncpg.DivisionByZeroError):
        await connection.fetchval("SELECT 1 / $1::int", 0)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


@check
async def copies():
    """records are copied in and out"""
    connection = await connect()
    await connection.execute("CREATE TABLE copied (n int, text text)")
    records = [(n, f"row {n}" if n % 2 else None) for n in range(5000)]
    assert await connection.copy_records_to_table("copied", records=records) == "COPY 5000"
    taken = bytearray()

    async def take(data):
        taken.extend(data)

    await connection.copy_from_query("SELECT n FROM copied WHERE n >= $1 ORDER BY n", 4000, output=take)
    assert [int(line) for line in taken.split()] == list(range(4000, 5000))
    # The driver finds it half-way, and gives the copy up.
    with raises(TypeError):
        await connection.copy_records_to_table("copied", records=[("not a number", "x")])
    assert await connection.fetchval("SELECT count(*) FROM copied") == 5000
    await connection.close()


@check
async def cursors():
    """cursors read in pieces"""
    connection = await connect()
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("SELECT generate_series(1, $1::int) AS n", 1000, prefetch=30):
            total += row["n"]
        assert total == 500500
        cursor = await connection.cursor("SELECT generate_series(1, 10) AS n")
        await cursor.forward(5)
        assert [row["n"] for row in await cursor.fetch(3)] == [6, 7, 8]
    await connection.close()


@check
async def timeouts():
    """a time-out of the driver cancels the query at the server"""
    connection, watcher = await connect(), await connect()
    with raises(asyncio.TimeoutError):
        await connection.fetch("SELECT pg_sleep(602)", timeout=0.2)
    running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(602)' AND state = 'active'"
    while await watcher.fetchval(running):
        await asyncio.sleep(0.02)
    assert await connection.fetchval("SELECT 1") == 1
    task = asyncio.create_task(connection.fetch("SELECT pg_sleep(603)"))
    await asyncio.sleep(0.1)
    task.cancel()
    with raises(asyncio.CancelledError):
        await task
    assert await connection.fetchval("SELECT 2") == 2
    await asyncio.gather(connection.close(), watcher.close())


@check
async def settings():
    """settings of the connection are its own"""
    one = await connect(server_settings={"search_path": "mine", "application_name": "asyncpg's"})
    other = await connect()
    for _ in range(5):
        assert await one.fetchval("SHOW search_path") == "mine"
        assert await other.fetchval("SHOW search_path") == '"$user", public'
    assert await one.fetchval("SHOW application_name") == "asyncpg's"
    assert one.get_server_version().major >= 15
    await asyncio.gather(one.close(), other.close())


@check
async def notifications():
    """notifications arrive"""
    listener, sender = await connect(), await connect()
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("driver", lambda *message: heard.done() or heard.set_result(message[-1]))
    await sender.execute("SELECT pg_notify('driver', 'hello')")
    assert await asyncio.wait_for(heard, 60) == "hello"
    await asyncio.gather(listener.close(), sender.close())


@check
async def schema_changes():
    """a statement that a change of the schema made stale works again"""
    connection, owner = await connect(), await connect()
    await owner.execute("CREATE TABLE evolving (a int); INSERT INTO evolving VALUES (1)")
    assert len(await connection.fetchrow("SELECT * FROM evolving")) == 1
    await owner.execute("ALTER TABLE evolving ADD b int")
    for attempt in range(3):
        try:
            row = await connection.fetchrow("SELECT * FROM evolving")
            break
        except asyncpg.InvalidCachedStatementError:
            assert attempt < 2, "it stays stale"
    assert len(row) == 2
    await asyncio.gather(connection.close(), owner.close())


@check
async def pools():
    """a pool of the application works for many tasks at once"""
    async with asyncpg.create_pool(min_size=4, max_size=40) as pool:
        await pool.execute("CREATE TABLE pooled (n int)")

        async def work(n):
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("INSERT INTO pooled VALUES ($1)", n)
                return await connection.fetchval("SELECT $1::int", n)

        assert await asyncio.gather(*(work(n) for n in range(800))) == list(range(800))
        assert await pool.fetchval("SELECT count(DISTINCT n) FROM pooled") == 800


run(lambda function: asyncio.run(function()))
