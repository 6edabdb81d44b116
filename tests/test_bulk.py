"""Many rows at once give what they give one by one, on both databases."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    select,
)
from sqlalchemy.exc import OperationalError

from telemetry import bulk, database
from telemetry.bulk import Insert

if TYPE_CHECKING:
    from tests.backends import Postgres

pytest_plugins = ("tests.backends",)

TABLE = Table(
    "thing", MetaData(),
    Column("name", String, primary_key=True), Column("order", Integer), Column("size", Float),
    Column("content", LargeBinary), Column("note", String),
)  # fmt: skip
HOSTILE = "tab\t newline\n \\N \\. quote' \" naïve 😀 %s"


@pytest.fixture
def engine(place: str) -> Iterator[Engine]:
    engine = database.connect(place)
    TABLE.create(engine)
    yield engine
    engine.dispose()


def row(name: int, **other: Any) -> tuple[Any, ...]:
    return tuple(
        {"name": f"n{name:05}", "order": name, "size": name / 3, "content": bytes([name % 256, 0, 255]),
         "note": HOSTILE, **other}.values()
    )  # fmt: skip


WAYS = pytest.mark.parametrize("way", [Insert.rows, Insert.new])


@WAYS
@pytest.mark.parametrize("count", [0, 1, bulk.MANY - 1, bulk.MANY, 5 * bulk.MANY])
def test_every_row_arrives_as_it_is(engine: Engine, count: int, way: Callable[..., int]) -> None:
    rows = [row(number, size=None if number % 7 == 0 else number / 3) for number in range(count)]
    with database.writing(engine) as connection:
        assert way(Insert(TABLE, engine.dialect.name), connection, rows) == count
    with engine.connect() as connection:
        assert [tuple(one) for one in connection.execute(select(TABLE).order_by("name"))] == rows


@WAYS
def test_what_is_there_stays_and_is_not_counted(engine: Engine, way: Callable[..., int]) -> None:
    insert = Insert(TABLE, engine.dialect.name)
    with database.writing(engine) as connection:
        way(insert, connection, [row(number) for number in range(100)])
        again = [row(number, note="new") for number in range(50, 200)]
        assert way(insert, connection, again) == 100
        assert way(insert, connection, again) == 0
    with engine.connect() as connection:
        notes = list(connection.scalars(select(TABLE.c.note).order_by("name")))
    assert notes == [HOSTILE] * 100 + ["new"] * 100


def test_fresh_columns_take_the_new_values_and_the_others_stay(engine: Engine) -> None:
    insert = Insert(TABLE, engine.dialect.name, ["note", "order"])
    with database.writing(engine) as connection:
        insert.rows(connection, [row(number) for number in range(100)])
        insert.rows(connection, [row(n, note="new", order=-n, size=0.0) for n in range(100)])
    with engine.connect() as connection:
        found = [tuple(one) for one in connection.execute(select(TABLE).order_by("name"))]
    assert found == [row(number, note="new", order=-number) for number in range(100)]


def test_nothing_of_a_transaction_that_failed_is_in_the_next(engine: Engine) -> None:
    insert = Insert(TABLE, engine.dialect.name)
    with engine.connect() as connection:
        connection.begin()
        insert.rows(connection, [row(number) for number in range(100)])
        connection.rollback()
    with database.writing(engine) as connection:
        assert insert.rows(connection, [row(number) for number in range(200, 300)]) == 100
    with engine.connect() as connection:
        assert len(connection.execute(select(TABLE)).all()) == 100


def test_a_server_that_goes_away_while_rows_are_copied_is_the_database_s_error(postgres: Postgres) -> None:
    if postgres.restart is None:
        pytest.skip("the server is not ours to restart")
    url = postgres.create()
    engine = create_engine(database.url_of(url))
    TABLE.create(engine)
    restart = postgres.restart

    def rows() -> Iterator[tuple[Any, ...]]:
        yield from (row(number) for number in range(100))
        subprocess.run(restart, check=True, stdout=subprocess.DEVNULL, timeout=60)
        yield from (row(number) for number in range(100, 50_000))

    with pytest.raises(OperationalError), database.writing(engine) as connection:
        Insert(TABLE, "postgresql").rows(connection, list_of(rows()))
    engine.dispose()
    postgres.drop(url)


class list_of(list[tuple[Any, ...]]):  # noqa: N801 - reads as a call
    """A list that is only gone through once, when it is asked for its items."""

    def __init__(self, items: Iterator[tuple[Any, ...]]) -> None:
        super().__init__([()] * bulk.MANY)
        self._items = items

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._items
