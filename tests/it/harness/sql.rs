//! SQL clients.

use tokio_postgres::{Client, Config, Error, NoTls};

/// Connects; the connection ends with the client.
pub(crate) async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Connects to a database of a server, past the router.
pub(crate) async fn connect_url(url: &str, database: &str) -> Client {
    let mut config: Config = url.parse().unwrap();
    config.dbname(database);
    connect(&config).await.unwrap_or_else(|error| panic!("{database}: {error:?}"))
}

/// The SQLSTATE of an error; what else it is when it has none.
pub(crate) fn code(error: &Error) -> String {
    error.code().map_or_else(|| format!("none: {error}"), |code| code.code().to_owned())
}

/// What the server said.
pub(crate) fn message(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Short ways to ask a database.
pub(crate) trait Sql {
    /// Runs statements.
    async fn run(&self, sql: &str);
    /// The first column of all rows, as text, by the simple protocol.
    async fn column(&self, sql: &str) -> Vec<String>;
    /// One number.
    async fn number(&self, sql: &str) -> i64;
    /// The SQLSTATE with which statements fail.
    async fn fails(&self, sql: &str) -> String;
}

impl Sql for Client {
    async fn run(&self, sql: &str) {
        self.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        let messages = self.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    async fn number(&self, sql: &str) -> i64 {
        let column = self.column(sql).await;
        assert_eq!(column.len(), 1, "{sql}");
        column[0].parse().unwrap_or_else(|error| panic!("{sql}: {}: {error}", column[0]))
    }

    async fn fails(&self, sql: &str) -> String {
        match self.batch_execute(sql).await {
            Ok(()) => panic!("{sql}: it was done"),
            Err(error) => code(&error),
        }
    }
}
