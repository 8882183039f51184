//! By which names the server may be called, and from which pages. PURE.
//!
//! A web page may send requests to any address, loopback ones included, and by DNS rebinding under
//! a name of its own choice. Two facts of a request tell it from one of a friend, and a page cannot
//! forge either: `Host` is the name that the client believes it is talking to, and `Origin` (or
//! `Sec-Fetch-Site`) the page that sent it. So a server that listens on a loopback address is
//! called by a loopback name, or by one that its configuration lists; and wherever it listens,
//! a page is served only where it came from the same host and port, or is listed.
//!
//! Where a server listens on other addresses, any name may be its own: names are checked there
//! only once some are listed. A probe or a scraper that goes by the address of a pod is answered
//! all the same: no name can be rebound to a `Host` that is the address the connection came to.
//!
//! `null` is the origin of every sandboxed frame and local file, and an extension acts for whoever
//! wrote it: they are answered where the list has them, and by no other rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Names besides loopback ones; `None` where any name will do.
    hosts: Option<Vec<String>>,
    /// Pages besides those of the server's own host.
    origins: Vec<String>,
}

/// Why somebody is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// The server is not known by this name.
    #[error(
        "this server is not called {0:?}: it listens on a loopback address or has a list of its \
         names; use http://127.0.0.1 or localhost, or start it with --allowed-hosts {0}"
    )]
    Host(String),
    /// A page of another site.
    #[error(
        "pages of {0:?} may not use this server; if that is scheme://host[:port] of yours, start it \
         with --allowed-origins {0}"
    )]
    Origin(String),
    /// The browser says that a page of another site asks, but not which.
    #[error(
        "a page of another site asks (Sec-Fetch-Site: {0}); if yours may, send its Origin and \
         start the server with --allowed-origins"
    )]
    Site(String),
}

/// What a request says of who asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asker<'a> {
    /// The name that the client calls the server by, `None` from an HTTP/1.0 client without one.
    pub host: Option<HostPort<'a>>,
    /// The page that asks.
    pub origin: Option<&'a str>,
    /// What the browser says of that page: `cross-site`, `same-site`, `same-origin` or `none`.
    pub site: Option<&'a str>,
    /// Whether a person follows a link to read the answer.
    pub follows_link: bool,
    /// The address of ours that the connection came to, where it is known.
    pub local: Option<IpAddr>,
}

impl Access {
    /// For a server that listens on `listen`, with the lists of its configuration.
    pub fn new(listen: IpAddr, hosts: &[String], origins: &[String]) -> Result<Self, String> {
        for host in hosts.iter().filter(|host| *host != "*") {
            if HostPort::parse(host).is_none() {
                return Err(format!(
                    "option allowed_hosts: {host:?} is no host name; it looks like pond.example \
                     or pond.example:7300, or is * for any"
                ));
            }
        }
        for origin in origins {
            if !is_listable(origin) {
                return Err(format!(
                    "option allowed_origins: {origin:?} is no origin; it looks like \
                     https://pond.example or moz-extension://id, or is null"
                ));
            }
        }
        let any = hosts.iter().any(|host| host == "*");
        let checked = !any && (listen.is_loopback() || !hosts.is_empty());
        Ok(Self { hosts: checked.then(|| hosts.to_vec()), origins: origins.to_vec() })
    }

    /// Whether the one who asks is answered.
    pub fn check(&self, asker: Asker<'_>) -> Result<(), Stranger> {
        if let (Some(listed), Some(host)) = (&self.hosts, asker.host)
            && !host.is_loopback()
            && !asker.local.is_some_and(|local| host.is_address(local))
            && !listed.iter().any(|name| host.is_named(name))
        {
            return Err(Stranger::Host(host.to_string()));
        }
        if let Some(origin) = asker.origin {
            if self.origins.iter().any(|listed| listed.eq_ignore_ascii_case(origin)) {
                return Ok(());
            }
            let own = Origin::parse(origin)
                .zip(asker.host)
                .is_some_and(|(origin, host)| origin.is_of(host));
            return if own { Ok(()) } else { Err(Stranger::Origin(origin.to_owned())) };
        }
        match asker.site {
            Some(site @ ("cross-site" | "same-site")) if !asker.follows_link => {
                Err(Stranger::Site(site.to_owned()))
            }
            _ => Ok(()),
        }
    }
}

/// A host, and a port if one is given: what `Host` holds (RFC 9110, 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// A name or an IPv4 address, or an IPv6 address in its brackets.
    host: &'a str,
    port: Option<u16>,
}

impl<'a> HostPort<'a> {
    /// Takes `text` apart; `None` if it is no host.
    pub fn parse(text: &'a str) -> Option<Self> {
        let host_len = match text.strip_prefix('[') {
            Some(rest) => {
                let inside = rest.find(']')?;
                rest[..inside].parse::<Ipv6Addr>().ok()?;
                inside + 2
            }
            None => text.find(':').unwrap_or(text.len()),
        };
        let (host, rest) = text.split_at(host_len);
        // As a name may be written (RFC 3986, 3.2.2), but for the comma: a proxy that met two
        // `Host` lines may have joined them by it.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=%".contains(&byte);
        if host.is_empty() || !(host.starts_with('[') || host.bytes().all(plain)) {
            return None;
        }
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// Whether both name the same server, where `port` is the one that is left out.
    pub fn is_same(self, other: Self, port: u16) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            && self.port.unwrap_or(port) == other.port.unwrap_or(port)
    }

    /// The address that it is, if it is none of IPv6 that stands for one of IPv4.
    fn address(self) -> Option<IpAddr> {
        let inside = self.host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match inside {
            Some(inside) => inside.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => self.host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
        .map(|address| address.to_canonical())
    }

    /// Whether it is this address, and no name.
    fn is_address(self, local: IpAddr) -> bool {
        self.address() == Some(local.to_canonical())
    }

    /// Whether the name leads to this machine wherever it is resolved.
    fn is_loopback(self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.address().is_some_and(|address| address.is_loopback())
    }

    /// Whether a list's entry means it: with the port that the entry has, or any.
    fn is_named(self, entry: &str) -> bool {
        HostPort::parse(entry).is_some_and(|entry| {
            self.host.eq_ignore_ascii_case(entry.host)
                && (entry.port.is_none() || entry.port == self.port)
        })
    }
}

impl std::fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.host)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Whether an origin can stand in the list: of a site, of an extension, or `null`.
fn is_listable(origin: &str) -> bool {
    let of_extension = || {
        let (scheme, id) = origin.split_once("://")?;
        let known = ["moz-extension", "chrome-extension", "safari-web-extension"];
        known.contains(&scheme).then(|| HostPort::parse(id))?
    };
    origin == "null" || Origin::parse(origin).is_some() || of_extension().is_some()
}

/// Where a page came from (RFC 6454, 6.2).
struct Origin<'a> {
    place: HostPort<'a>,
    /// The port of its scheme.
    port: u16,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, place) = text.split_once("://")?;
        let port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some(Self { place: HostPort::parse(place)?, port })
    }

    /// Whether `host` is what the page was loaded from. A proxy may speak TLS for us, so that the
    /// scheme is not compared.
    fn is_of(&self, host: HostPort<'_>) -> bool {
        self.place.is_same(host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn access(listen: IpAddr, hosts: &[&str], origins: &[&str]) -> Access {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        Access::new(listen, &owned(hosts), &owned(origins)).unwrap()
    }

    fn by_host(access: &Access, host: &str) -> bool {
        let host = HostPort::parse(host).expect("a host");
        access.check(Asker { host: Some(host), ..Asker::default() }).is_ok()
    }

    #[test]
    fn hosts_are_taken_apart() {
        for (text, want) in [
            ("pond", Some(("pond", None))),
            ("pond:80", Some(("pond", Some(80)))),
            ("pond:", Some(("pond", None))),
            ("[::1]:7300", Some(("[::1]", Some(7300)))),
            ("[::1]", Some(("[::1]", None))),
            ("127.0.0.1:7300", Some(("127.0.0.1", Some(7300)))),
            ("", None),
            (":80", None),
            ("[::1", None),
            ("[pond]", None),
            ("[::1]80", None),
            ("pond:http", None),
            ("pond:65536", None),
            ("pond:+1", None),
            ("a:1:2", None),
            ("friend@pond", None),
            ("one, two", None),
            ("pond/v1", None),
        ] {
            let parsed = HostPort::parse(text).map(|found| (found.host, found.port));
            assert_eq!(parsed, want, "{text}");
        }
    }

    #[test]
    fn a_loopback_listener_is_called_by_loopback_names() {
        let plain = access(LOOPBACK, &[], &[]);
        for host in ["localhost", "LocalHost:7300", "127.0.0.1", "127.9.9.9:1", "[::1]:7300"] {
            assert!(by_host(&plain, host), "{host}");
        }
        assert!(by_host(&plain, "[::ffff:127.0.0.1]"));
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7300"] {
            assert!(!by_host(&plain, host), "{host}");
        }
        for host in ["10.0.0.1", "0.0.0.0", "[::]", "128.0.0.1", "0x7f.1", "127.1"] {
            assert!(!by_host(&plain, host), "{host}");
        }
        let listed = access(LOOPBACK, &["pond.example", "lake.example:80"], &[]);
        for (host, want) in [
            ("pond.example", true),
            ("POND.example:7300", true),
            ("lake.example:80", true),
            ("lake.example:81", false),
            ("lake.example", false),
            ("localhost", true),
            ("evil.example", false),
        ] {
            assert_eq!(by_host(&listed, host), want, "{host}");
        }
        assert!(by_host(&access(LOOPBACK, &["*"], &[]), "evil.example"));
    }

    #[test]
    fn other_listeners_know_their_names_only_where_they_are_told() {
        assert!(by_host(&access(EVERYWHERE, &[], &[]), "pond.example"));
        let told = access(EVERYWHERE, &["pond.example"], &[]);
        assert!(by_host(&told, "pond.example:7300"));
        assert!(by_host(&told, "127.0.0.1:7300"), "health checks");
        assert!(!by_host(&told, "evil.example"));
    }

    /// Probes of pods and scrapers name the address, and got 403 once a name was listed.
    #[test]
    fn the_address_that_a_connection_came_to_is_a_name_of_the_server() {
        let told = access(EVERYWHERE, &["pond.example"], &[]);
        for (host, local, want) in [
            ("10.1.2.3:7300", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3:80", "::ffff:10.1.2.3", true),
            ("[fd00::1]:7300", "fd00::1", true),
            ("10.1.2.4:7300", "10.1.2.3", false),
            ("10.1.2.3.evil.example", "10.1.2.3", false),
            ("evil.example", "10.1.2.3", false),
            ("[fd00::2]", "fd00::1", false),
        ] {
            let (host, local) = (HostPort::parse(host), Some(local.parse().unwrap()));
            let asker = Asker { host, local, ..Asker::default() };
            assert_eq!(told.check(asker).is_ok(), want, "{host:?} at {local:?}");
            // A page elsewhere is not let in by that.
            let page = Asker { origin: Some("http://evil.example"), ..asker };
            assert!(told.check(page).is_err());
        }
    }

    #[test]
    fn extensions_and_pages_without_an_origin_are_let_in_by_the_list_only() {
        let listed = ["null", "moz-extension://0a1b-2c", "chrome-extension://abcdef"];
        for origin in listed {
            let host = HostPort::parse("localhost:7300");
            let asker = Asker { host, origin: Some(origin), ..Asker::default() };
            assert!(access(LOOPBACK, &[], &[]).check(asker).is_err(), "{origin}");
            assert!(access(LOOPBACK, &[], &listed).check(asker).is_ok(), "{origin}");
            assert!(access(LOOPBACK, &[], &["https://pond.example"]).check(asker).is_err());
        }
    }

    #[test]
    fn pages_come_from_the_same_host_and_port() {
        let access = access(EVERYWHERE, &[], &["https://pond.example"]);
        let asks = |host: &str, origin: &str| {
            let (host, origin) = (HostPort::parse(host), Some(origin));
            access.check(Asker { host, origin, ..Asker::default() }).is_ok()
        };
        for (host, origin, want) in [
            ("127.0.0.1:7300", "http://127.0.0.1:7300", true),
            ("LOCALHOST:7300", "http://localhost:7300", true),
            ("lake.example", "http://lake.example", true),
            ("lake.example", "https://lake.example", true),
            ("lake.example:443", "https://lake.example", true),
            ("127.0.0.1:7300", "https://pond.example", true),
            ("127.0.0.1:7300", "http://127.0.0.1:3000", false),
            ("127.0.0.1:7300", "http://127.0.0.1", false),
            ("127.0.0.1:7300", "http://localhost:7300", false),
            ("127.0.0.1:7300", "http://evil.example", false),
            ("127.0.0.1:7300", "http://pond.example", false),
            ("127.0.0.1:7300", "null", false),
            ("127.0.0.1:7300", "", false),
        ] {
            assert_eq!(asks(host, origin), want, "{host} from {origin}");
        }
    }

    #[test]
    fn requests_that_a_page_makes_without_an_origin_are_known_by_their_site() {
        let access = access(LOOPBACK, &[], &["https://pond.example"]);
        let asks = |site, follows_link, origin| {
            let site = Some(site);
            let asker = Asker { origin, site, follows_link, ..Asker::default() };
            access.check(asker).is_ok()
        };
        for (site, follows_link, want) in [
            ("cross-site", false, false),
            ("same-site", false, false),
            ("same-origin", false, true),
            ("none", false, true),
            ("cross-site", true, true),
        ] {
            assert_eq!(asks(site, follows_link, None), want, "{site} {follows_link}");
        }
        assert!(asks("cross-site", false, Some("https://pond.example")), "listed");
    }

    #[test]
    fn lists_with_mistakes_are_refused() {
        let strings = |text: &str| vec![text.to_owned()];
        for host in ["", "http://pond", "pond:x", "a b"] {
            let error = Access::new(LOOPBACK, &strings(host), &[]).unwrap_err();
            assert!(error.contains("allowed_hosts"), "{error}");
        }
        for origin in ["", "pond.example", "ftp://pond", "https://pond/", "moz-extension://"] {
            let error = Access::new(LOOPBACK, &[], &strings(origin)).unwrap_err();
            assert!(error.contains("allowed_origins"), "{error}");
        }
    }
}
