"""psycopg 3: what applications do with it. Where to connect is in libpq's variables."""

import datetime
import decimal
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

from checks import check, raises, run


def connect(**more):
    return psycopg.connect("", **more)


@check
def types():
    """values of every common type come back as they went"""
    values = [
        42,
        2**60,
        1.5,
        decimal.Decimal("123456789.123456789"),
        "ünï'\\\n",
        b"\x00\xff\x5c",
        True,
        uuid.uuid4(),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=1, seconds=5),
        [1, None, 3],
    ]
    for binary in (False, True):
        with connect() as connection, connection.cursor(binary=binary) as cursor:
            for value in values:
                mark = "%b" if binary else "%s"
                got = cursor.execute(f"SELECT {mark}", (value,)).fetchone()[0]
                assert got == value, (binary, value, got)
            got = cursor.execute("SELECT %s::jsonb", (Jsonb({"a": [1, None]}),)).fetchone()[0]
            assert got == {"a": [1, None]}
            texts = ["a,b", '"q"', None]
            assert cursor.execute("SELECT %s::text[]", (texts,)).fetchone()[0] == texts
            assert cursor.execute("SELECT %s::text", (None,)).fetchone()[0] is None


@check
def prepared():
    """statements are prepared once and reused by many connections"""
    with connect(autocommit=True) as one, connect(autocommit=True) as other:
        for n in range(50):
            for connection in (one, other):
                got = connection.execute("SELECT %s::int + 1", (n,), prepare=True).fetchone()[0]
                assert got == n + 1
        # Prepared by itself after five executions, with another type in between.
        for n in range(20):
            assert one.execute("SELECT %s", (n,)).fetchone()[0] == n
            assert one.execute("SELECT %s", (str(n),)).fetchone()[0] == str(n)
        one.prepared_max = 3
        for n in range(20):
            assert one.execute(f"SELECT {n}", prepare=True).fetchone()[0] == n


@check
def transactions():
    """transactions are committed, rolled back, and nested"""
    with connect() as connection:
        connection.execute("CREATE TABLE tx (n int PRIMARY KEY)")
        connection.commit()
        with connection.transaction():
            connection.execute("INSERT INTO tx VALUES (1)")
            with raises(errors.UniqueViolation):
                with connection.transaction():
                    connection.execute("INSERT INTO tx VALUES (2)")
                    connection.execute("INSERT INTO tx VALUES (1)")
            connection.execute("INSERT INTO tx VALUES (3)")
        connection.execute("INSERT INTO tx VALUES (4)")
        connection.rollback()
        assert [row[0] for row in connection.execute("SELECT n FROM tx ORDER BY n")] == [1, 3]
        connection.rollback()
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        assert connection.execute("SHOW transaction_isolation").fetchone()[0] == "serializable"
        connection.rollback()
        connection.read_only = True
        with raises(errors.ReadOnlySqlTransaction):
            connection.execute("INSERT INTO tx VALUES (5)")


@check
def failures():
    """errors have their class, constraint and detail, and the connection goes on"""
    with connect() as connection:
        connection.execute("CREATE TABLE strict (n int CONSTRAINT small CHECK (n < 10))")
        connection.commit()
        with raises(errors.CheckViolation) as caught:
            connection.execute("INSERT INTO strict VALUES (%s)", (11,))
        assert caught.error.diag.constraint_name == "small"
        assert caught.error.diag.table_name == "strict"
        with raises(errors.InFailedSqlTransaction):
            connection.execute("SELECT 1")
        connection.rollback()
        with raises(errors.UndefinedTable):
            connection.execute("SELECT * FROM nowhere")
        connection.rollback()
        with raises(errors.SyntaxError):
            connection.execute("SELEC 1", prepare=True)
        connection.rollback()
        assert connection.execute("SELECT 1").fetchone()[0] == 1


@check
def pipelines():
    """pipelines, executemany, and an error in the middle of one"""
    with connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE piped (n int PRIMARY KEY)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO piped VALUES (%s)", [(n,) for n in range(500)])
        with connection.pipeline():
            cursors = [connection.execute("SELECT count(*) FROM piped WHERE n < %s", (n,)) for n in range(50)]
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(50))
        with raises(errors.UniqueViolation):
            with connection.pipeline() as pipeline:
                connection.execute("INSERT INTO piped VALUES (1000)")
                pipeline.sync()
                connection.execute("INSERT INTO piped VALUES (1)")
                connection.execute("INSERT INTO piped VALUES (1001)")
        assert connection.execute("SELECT count(*) FROM piped WHERE n >= 1000").fetchone()[0] == 1


@check
def copies():
    """COPY in and out, in text and binary, and one that is given up"""
    with connect() as connection:
        connection.execute("CREATE TABLE copied (n int, text text)")
        with connection.cursor() as cursor:
            with cursor.copy("COPY copied FROM STDIN") as copy:
                for n in range(5000):
                    copy.write_row((n, f"row\t{n}"))
            with cursor.copy("COPY copied FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int4", "text"])
                for n in range(5000, 6000):
                    copy.write_row((n, None))
            with cursor.copy("COPY (SELECT n FROM copied ORDER BY n) TO STDOUT") as copy:
                assert [int(row[0]) for row in copy.rows()] == list(range(6000))
        connection.commit()
        with raises(ZeroDivisionError):
            with connection.cursor() as cursor, cursor.copy("COPY copied FROM STDIN") as copy:
                copy.write_row((-1, "never"))
                1 / 0
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM copied").fetchone()[0] == 6000


@check
def cursors():
    """server-side cursors and streams read in pieces"""
    with connect() as connection:
        with connection.cursor("named", scrollable=True) as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT generate_series(1, 100)")
            assert sum(row[0] for row in cursor) == 5050
            cursor.scroll(0, mode="absolute")
            assert cursor.fetchone()[0] == 1
        with connection.cursor(row_factory=dict_row) as cursor:
            rows = [row["n"] for row in cursor.stream("SELECT generate_series(1, 1000) AS n")]
            assert rows == list(range(1, 1001))


@check
def cancelling():
    """a query is cancelled from another thread, and timed out"""
    with connect(autocommit=True) as connection, connect(autocommit=True) as watcher:
        def cancel():
            running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(601)' AND state = 'active'"
            while not watcher.execute(running).fetchone()[0]:
                time.sleep(0.02)
            connection.cancel_safe()

        thread = threading.Thread(target=cancel)
        thread.start()
        with raises(errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(601)")
        thread.join()
        connection.execute("SET statement_timeout = '50ms'")
        with raises(errors.QueryCanceled):
            connection.execute("SELECT pg_sleep(600)")
        connection.execute("RESET statement_timeout")
        assert connection.execute("SELECT 1").fetchone()[0] == 1


@check
def settings():
    """options and settings are a connection's own"""
    with connect(options="-c search_path=mine -c work_mem=5MB", autocommit=True) as one:
        with connect(autocommit=True) as other:
            for _ in range(5):
                assert one.execute("SHOW search_path").fetchone()[0] == "mine"
                assert other.execute("SHOW work_mem").fetchone()[0] == "4MB"
            one.execute("SET timezone = 'Asia/Tokyo'")
            assert one.info.parameter_status("TimeZone") == "Asia/Tokyo"
            assert one.info.parameter_status("server_encoding") == "UTF8"
            assert one.info.server_version >= 150000


@check
def notifications():
    """notifications arrive"""
    with connect(autocommit=True) as listener, connect(autocommit=True) as sender:
        listener.execute("LISTEN driver")
        sender.execute("SELECT pg_notify('driver', 'hello')")
        heard = next(listener.notifies(timeout=60, stop_after=1))
        assert heard.payload == "hello"


@check
def pools():
    """a pool of the application works for many threads at once"""
    with connect() as connection:
        connection.execute("CREATE TABLE pooled (n int)")
    with ConnectionPool("", min_size=4, max_size=40, timeout=60, open=True) as pool:
        def work(n):
            with pool.connection() as connection, connection.transaction():
                connection.execute("INSERT INTO pooled VALUES (%s)", (n,))
                return connection.execute("SELECT %s::int", (n,), prepare=True).fetchone()[0]

        with ThreadPoolExecutor(40) as threads:
            assert list(threads.map(work, range(800))) == list(range(800))
        with pool.connection() as connection:
            assert connection.execute("SELECT count(DISTINCT n) FROM pooled").fetchone()[0] == 800


run(lambda function: function())
