//! Keys whose change takes effect only when the router is started again.

use super::RouterConfig;

macro_rules! fixed {
    ($($key:ident),* $(,)?) => {
        /// Their names.
        pub(crate) const RESTART_KEYS: &[&str] = &[$(stringify!($key)),*];

        /// Gives them their old values; names those that were to be different.
        pub(crate) fn keep_fixed(old: &RouterConfig, new: &mut RouterConfig) -> Vec<&'static str> {
            let mut different = Vec::new();
            $(
                if new.$key != old.$key {
                    different.push(stringify!($key));
                    new.$key.clone_from(&old.$key);
                }
            )*
            different
        }
    };
}

fixed!(cancel_listen, catalog_url, listen, master_key_file, metrics_listen, name, snapshot_file, workers,);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_change_is_named_and_stays() {
        let old = RouterConfig::default();
        let mut new = RouterConfig { workers: Some(7), clients_max: 5, ..RouterConfig::default() };
        assert_eq!(keep_fixed(&old, &mut new), ["workers"]);
        assert_eq!((new.workers, new.clients_max), (old.workers, 5));
    }
}
