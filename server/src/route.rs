//! The routes by name: what a path means, decided from its text alone. PURE.

/// A route, as metrics and logs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v1/kv/{kvs}/{key...}`: one key.
    Key,
    /// `/v1/kv/{kvs}`: many keys.
    Scan,
    /// `/v1/batch`.
    Batch,
    /// `/v1/kvs`.
    KvsList,
    /// `/v1/kvs/{kvs}`.
    Kvs,
    /// `/livez`.
    Livez,
    /// `/readyz`.
    Readyz,
    /// `/metrics`.
    Metrics,
    /// `/version`.
    Version,
    /// Anything else.
    Other,
}

impl Route {
    /// All of them, in the order of [`Route::index`].
    pub const ALL: [Self; 10] = [
        Self::Key,
        Self::Scan,
        Self::Batch,
        Self::KvsList,
        Self::Kvs,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
        Self::Version,
        Self::Other,
    ];

    /// What `path` means.
    pub fn of(path: &str) -> Self {
        if let Some(rest) = path.strip_prefix("/v1/kv/") {
            return match rest.find('/') {
                Some(0) => Self::Other,
                Some(_) => Self::Key,
                None if rest.is_empty() => Self::Other,
                None => Self::Scan,
            };
        }
        match path {
            "/v1/batch" => Self::Batch,
            "/v1/kvs" => Self::KvsList,
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/version" => Self::Version,
            _ => match path.strip_prefix("/v1/kvs/") {
                Some(name) if !name.is_empty() && !name.contains('/') => Self::Kvs,
                Some(_) | None => Self::Other,
            },
        }
    }

    /// Its label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Scan => "scan",
            Self::Batch => "batch",
            Self::KvsList => "kvs_list",
            Self::Kvs => "kvs",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Version => "version",
            Self::Other => "other",
        }
    }

    /// The methods it serves, as in an `Allow` header.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Key => "GET, HEAD, PUT, POST, DELETE",
            Self::Batch => "POST",
            Self::Kvs => "GET, HEAD, PUT, DELETE",
            Self::Scan
            | Self::KvsList
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Version => "GET, HEAD",
            Self::Other => "",
        }
    }

    /// Its place in [`Route::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_mean_what_the_table_says() {
        for (path, want) in [
            ("/v1/kv/default/a", Route::Key),
            ("/v1/kv/default/a/b//c", Route::Key),
            ("/v1/kv/default/", Route::Key),
            ("/v1/kv/default", Route::Scan),
            ("/v1/kv/", Route::Other),
            ("/v1/kv//a", Route::Other),
            ("/v1/kv", Route::Other),
            ("/v1/batch", Route::Batch),
            ("/v1/batch/", Route::Other),
            ("/v1/kvs", Route::KvsList),
            ("/v1/kvs/", Route::Other),
            ("/v1/kvs/a", Route::Kvs),
            ("/v1/kvs/a/b", Route::Other),
            ("/livez", Route::Livez),
            ("/", Route::Other),
        ] {
            assert_eq!(Route::of(path), want, "{path}");
        }
    }

    #[test]
    fn the_index_is_the_place() {
        for (place, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route.index(), place);
        }
    }
}
