//! Router users in the catalog.

use shard_map::User;

use crate::error::{Error, Result};
use crate::query::Catalog;

fn no_such_user(name: &str) -> Error {
    Error::NotFound(format!("user {name} does not exist"))
}

impl Catalog {
    /// All users, by name.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn users(&self) -> Result<Vec<User>> {
        self.json("user_list", "SELECT to_jsonb(u) FROM router_user u ORDER BY name", &[]).await
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken.
    pub async fn create_user(&self, user: &User) -> Result<()> {
        const SQL: &str = "
            INSERT INTO router_user (name, verifier, tenants, access, pool_mode) VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT DO NOTHING";
        let (tenants, access, pool_mode) =
            (user.tenants.to_string(), user.access.as_str(), user.pool_mode.as_str());
        let written = self
            .execute("user_create", SQL, &[&user.name, &user.verifier, &tenants, &access, &pool_mode])
            .await?;
        if written == 0 {
            return Err(Error::Conflict(format!("user {} exists already", user.name)));
        }
        Ok(())
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_user_verifier(&self, name: &str, verifier: &str) -> Result<()> {
        const SQL: &str = "UPDATE router_user SET verifier = $2 WHERE name = $1";
        match self.execute("user_passwd", SQL, &[&name, &verifier]).await? {
            0 => Err(no_such_user(name)),
            _ => Ok(()),
        }
    }

    /// Removes a user; its open sessions end when the routers hear of it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn drop_user(&self, name: &str) -> Result<()> {
        match self.execute("user_drop", "DELETE FROM router_user WHERE name = $1", &[&name]).await? {
            0 => Err(no_such_user(name)),
            _ => Ok(()),
        }
    }
}
