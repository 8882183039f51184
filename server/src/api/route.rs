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
    /// `/v1/admin/pool` and `/v1/admin/pool/maps`: to be looked at.
    Pool,
    /// `/v1/admin/pool/name`.
    PoolName,
    /// `/v1/admin/pool/volumes` and what can be done to one.
    Volumes,
    /// `/v1/admin/pool/volumes/{id}`.
    Volume,
    /// `/v1/admin/pool/scrub`.
    Scrub,
    /// `/v1/admin/tree/{kvs}`.
    Tree,
    /// `/v1/admin/compact`.
    Compact,
    /// `/v1/admin/snapshots`.
    Snapshots,
    /// `/v1/admin/snapshots/{id}`.
    Snapshot,
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
    pub const ALL: [Self; 19] = [
        Self::Key,
        Self::Scan,
        Self::Batch,
        Self::KvsList,
        Self::Kvs,
        Self::Pool,
        Self::PoolName,
        Self::Volumes,
        Self::Volume,
        Self::Scrub,
        Self::Tree,
        Self::Compact,
        Self::Snapshots,
        Self::Snapshot,
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
        if let Some(rest) = path.strip_prefix("/v1/admin/pool") {
            return Self::of_pool(rest);
        }
        if let Some(name) = path.strip_prefix("/v1/admin/tree/") {
            let is_name = !name.is_empty() && !name.contains('/');
            return if is_name { Self::Tree } else { Self::Other };
        }
        if let Some(id) = path.strip_prefix("/v1/admin/snapshots/") {
            let is_one = !id.is_empty() && !id.contains('/');
            return if is_one { Self::Snapshot } else { Self::Other };
        }
        match path {
            "/v1/batch" => Self::Batch,
            "/v1/kvs" => Self::KvsList,
            "/v1/admin/compact" => Self::Compact,
            "/v1/admin/snapshots" => Self::Snapshots,
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

    fn of_pool(rest: &str) -> Self {
        match rest {
            "" | "/" | "/maps" => return Self::Pool,
            "/name" => return Self::PoolName,
            "/scrub" => return Self::Scrub,
            "/volumes" => return Self::Volumes,
            _ => {}
        }
        let Some(volume) = rest.strip_prefix("/volumes/") else { return Self::Other };
        match volume.split_once('/') {
            None if !volume.is_empty() => Self::Volume,
            Some((id, "grow" | "evacuate" | "cancel")) if !id.is_empty() => Self::Volumes,
            _ => Self::Other,
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
            Self::Pool => "pool",
            Self::PoolName => "pool_name",
            Self::Volumes => "volumes",
            Self::Volume => "volume",
            Self::Scrub => "scrub",
            Self::Tree => "tree",
            Self::Compact => "compact",
            Self::Snapshots => "snapshots",
            Self::Snapshot => "snapshot",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Version => "version",
            Self::Other => "other",
        }
    }

    /// Whether it is for those who watch the server, who are answered while it shuts down, too.
    pub fn is_for_watchers(self) -> bool {
        matches!(self, Self::Livez | Self::Readyz | Self::Metrics | Self::Version)
    }

    /// Whether what changes it is told to those who look after the store.
    pub fn is_administrative(self) -> bool {
        match self {
            Self::Kvs
            | Self::Pool
            | Self::PoolName
            | Self::Volumes
            | Self::Volume
            | Self::Scrub
            | Self::Tree
            | Self::Compact
            | Self::Snapshots
            | Self::Snapshot => true,
            Self::Key
            | Self::Scan
            | Self::Batch
            | Self::KvsList
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Version
            | Self::Other => false,
        }
    }

    /// The methods it serves, as in an `Allow` header.
    pub fn allow(self) -> &'static str {
        match self {
            Self::Key => "GET, HEAD, PUT, POST, DELETE",
            Self::Batch | Self::Volumes => "POST",
            Self::PoolName => "PUT",
            Self::Volume | Self::Snapshot => "DELETE",
            Self::Scrub | Self::Compact => "GET, HEAD, POST, DELETE",
            Self::Kvs => "GET, HEAD, PUT, DELETE",
            Self::Scan
            | Self::KvsList
            | Self::Pool
            | Self::Tree
            | Self::Snapshots
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Version => "GET, HEAD",
            Self::Other => "",
        }
    }

    /// What its methods do, and what those who miss one probably look for.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Key => "PUT and POST write a key, GET and HEAD read it, DELETE deletes it",
            Self::Scan => {
                "GET walks the keys; PUT /v1/kv/{kvs}/{key} writes one, POST /v1/batch several, \
                 PUT /v1/kvs/{kvs} creates the KVS and DELETE drops it"
            }
            Self::Batch => "POST carries out the operations of its body",
            Self::KvsList => {
                "GET lists the KVSs; PUT /v1/kvs/{kvs} creates one, DELETE /v1/kvs/{kvs} drops it"
            }
            Self::Kvs => {
                "PUT creates the KVS, GET shows it, DELETE drops it; its keys are at \
                 /v1/kv/{kvs}/{key}"
            }
            Self::Pool => "GET shows; POST /v1/admin/pool/volumes adds a volume",
            Self::PoolName => "PUT names the pool; GET /v1/admin/pool shows its name",
            Self::Volumes => {
                "POST to volumes adds one, to volumes/{id}/grow, /evacuate or /cancel changes it; \
                 GET /v1/admin/pool lists all"
            }
            Self::Volume => "DELETE removes an emptied volume; GET /v1/admin/pool shows all",
            Self::Scrub => "POST starts a scrub, GET shows it, DELETE stops it",
            Self::Tree => "GET shows the tree of a KVS",
            Self::Snapshots => {
                "GET shows the snapshots that live; DELETE /v1/admin/snapshots/{id} ends one"
            }
            Self::Snapshot => {
                "DELETE ends a snapshot; GET /v1/admin/snapshots shows those that live"
            }
            Self::Compact => "POST begins a compaction, GET shows it, DELETE ends it",
            Self::Livez | Self::Readyz | Self::Metrics | Self::Version => "it is only read",
            Self::Other => "nothing",
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
            ("/v1/admin/pool", Route::Pool),
            ("/v1/admin/pool/maps", Route::Pool),
            ("/v1/admin/pool/volumes", Route::Volumes),
            ("/v1/admin/pool/volumes/vol-1", Route::Volume),
            ("/v1/admin/pool/volumes/vol-1/grow", Route::Volumes),
            ("/v1/admin/pool/volumes/vol-1/shrink", Route::Other),
            ("/v1/admin/pool/volumes/", Route::Other),
            ("/v1/admin/pool/scrub", Route::Scrub),
            ("/v1/admin/pools", Route::Other),
            ("/v1/admin/tree/a", Route::Tree),
            ("/v1/admin/tree/", Route::Other),
            ("/v1/admin/tree/a/b", Route::Other),
            ("/v1/admin/compact", Route::Compact),
            ("/v1/admin/snapshots", Route::Snapshots),
            ("/v1/admin/snapshots/7", Route::Snapshot),
            ("/v1/admin/snapshots/", Route::Other),
            ("/v1/admin/snapshots/7/8", Route::Other),
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
