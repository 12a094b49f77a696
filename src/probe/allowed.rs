//! Where a probe may go: to the address that registered, or to a network that the operator listed; and never to an
//! address that means something else on each machine, or that hands out credentials.
//!
//! A registration is a wish that the registry makes requests, so without this rule anybody who can register could look
//! around in the registry's network. Pure: it knows addresses and no names. It is asked twice: when an address is
//! registered, so that the mistake is told at once, and for every address that is about to be dialled, after the
//! name was resolved, so that a name that changes its mind gains nothing. It must never be asked about one address and
//! let another be dialled. Called by the HTTP layer (registration) and by `dial`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses at which clouds hand out credentials to whoever asks: the one that most share, Amazon's and Google's by IPv6,
/// Alibaba's, Azure's host agent, Oracle's.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Why a probe may not go to an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// No setting allows it.
    #[error("{address} is {what}: no check may go there")]
    Never {
        /// The address.
        address: IpAddr,
        /// What kind of address it is.
        what: &'static str,
    },
    /// A setting could allow it.
    #[error(
        "{address} is neither the address that registered{} nor in a network that checks may go to: register from \
         {address} itself, or start the registry with --check-networks {}",
        from(*registered_from),
        Network::of(*address)
    )]
    NotListed {
        /// The address.
        address: IpAddr,
        /// Where the registration came from; none if that is not known.
        registered_from: Option<IpAddr>,
    },
}

fn from(address: Option<IpAddr>) -> String {
    address.map_or_else(String::new, |address| format!(" ({address})"))
}

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// The network of this address alone.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self { address, bits: width(address) }
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let same = |one: u128, other: u128, width: u8| {
            let cut = u32::from(width - self.bits);
            // All bits cut off leaves nothing to compare; a shift by the whole width would overflow.
            one.checked_shr(cut) == other.checked_shr(cut)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("must be a network such as 10.0.0.0/8 or fd00::/8, or an address, was {text:?}")
        };
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = width(address);
        let bits = if text.contains('/') { bits.parse().map_err(|_| wrong())? } else { all };
        if bits > all {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

/// The networks of the setting; the default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<Network>);

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let texts: Vec<String> = self.0.iter().map(Network::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.trim() == "none" {
            return Ok(Self::default());
        }
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl Networks {
    /// Whether a probe of an instance that was registered from `registered_from` may go to `address`.
    ///
    /// # Errors
    /// Why not, and what would help.
    pub fn check(&self, address: IpAddr, registered_from: Option<IpAddr>) -> Result<(), Forbidden> {
        let address = address.to_canonical();
        let registered_from = registered_from.map(|from| from.to_canonical());
        if let Some(what) = never(address) {
            return Err(Forbidden::Never { address, what });
        }
        if registered_from == Some(address)
            || self.0.iter().any(|network| network.contains(address))
        {
            return Ok(());
        }
        Err(Forbidden::NotListed { address, registered_from })
    }
}

/// What an address is that no setting opens; none for the others.
fn never(address: IpAddr) -> Option<&'static str> {
    if METADATA.contains(&address) {
        return Some("a metadata address");
    }
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V4(v4) if v4.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        // All of 0.0.0.0/8 is "this network" (RFC 1122, section 3.2.1.3); systems take 0.0.0.0 for themselves.
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("unspecified"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if v6.is_unspecified() => Some("unspecified"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        // A translator on the way may make the IPv4 address of it that would be refused as such.
        IpAddr::V6(v6) => embedded(v6).and_then(|v4| never(IpAddr::V4(v4))),
    }
}

/// The IPv4 address that an IPv6 address carries: mapped and compatible (RFC 4291, section 2.5.5), translated (RFC 2765),
/// NAT64 (RFC 6052 and, with /96, RFC 8215), 6to4 (RFC 3056).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let last = || {
        let [a, b] = s[6].to_be_bytes();
        let [c, d] = s[7].to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        // `::1` is itself, and not the compatible form of 0.0.0.1.
        [0, 0, 0, 0, 0, 0, 0, 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..]
        | [0x64, 0xff9b, 1, ..] => Some(last()),
        [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn some_addresses_are_never_probed_whatever_is_listed() {
        let all: Networks = "0.0.0.0/0,::/0".parse().unwrap();
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "224.0.0.1",
            "239.255.255.250",
            "ff02::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "::ffff:0.0.0.0",
            "::ffff:224.0.0.1",
            "::ffff:255.255.255.255",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "::ffff:100.100.100.200",
            "::0.0.0.2",
        ] {
            let address = ip(address);
            // Neither to have registered from there nor to be listed helps.
            let refused = all.check(address, Some(address));
            assert!(matches!(refused, Err(Forbidden::Never { .. })), "{address}: {refused:?}");
        }
        for address in
            ["127.0.0.1", "::1", "10.0.0.7", "8.8.8.8", "2001:db8::1", "64:ff9b::8.8.8.8"]
        {
            assert_eq!(all.check(ip(address), None), Ok(()), "{address}");
        }
    }

    #[test]
    fn others_are_probed_where_they_registered_or_where_the_operator_allows_it() {
        let none = Networks::default();
        let some: Networks = "10.1.0.0/16, fd12::/16,192.0.2.7".parse().unwrap();
        for (networks, address, from, allowed) in [
            (&none, "10.0.0.7", Some("10.0.0.7"), true),
            (&none, "10.0.0.7", Some("::ffff:10.0.0.7"), true),
            (&none, "::ffff:10.0.0.7", Some("10.0.0.7"), true),
            (&none, "127.0.0.1", Some("127.0.0.1"), true),
            (&none, "127.0.0.1", Some("10.0.0.7"), false),
            (&none, "::1", Some("127.0.0.1"), false),
            (&none, "10.0.0.8", Some("10.0.0.7"), false),
            (&none, "10.0.0.7", None, false),
            (&some, "10.1.255.255", None, true),
            (&some, "::ffff:10.1.0.1", None, true),
            (&some, "10.2.0.0", None, false),
            (&some, "fd12:3::4", None, true),
            (&some, "fd13::4", None, false),
            (&some, "192.0.2.7", None, true),
            (&some, "192.0.2.6", None, false),
        ] {
            let checked = networks.check(ip(address), from.map(ip));
            assert_eq!(checked.is_ok(), allowed, "{address} from {from:?}: {checked:?}");
        }
        let told = none.check(ip("10.0.0.8"), Some(ip("10.0.0.7"))).unwrap_err().to_string();
        assert!(
            told.contains("(10.0.0.7)") && told.contains("--check-networks 10.0.0.8/32"),
            "{told}"
        );
    }

    #[test]
    fn networks_read_and_show_as_written() {
        for text in ["none", "10.0.0.0/8", "10.0.0.0/8,fd00::/8", "0.0.0.0/0", "::/0"] {
            assert_eq!(text.parse::<Networks>().unwrap().to_string(), text);
        }
        assert_eq!("".parse::<Networks>(), Ok(Networks::default()));
        assert_eq!("10.0.0.7".parse::<Networks>().unwrap().to_string(), "10.0.0.7/32");
        for text in
            ["10.0.0.0/33", "fd00::/129", "10.0.0.0/", "10.0.0.0/-1", "ten", "10.0.0.0/8,,", ","]
        {
            assert!(text.parse::<Networks>().is_err(), "{text}");
        }
        let everything: Network = "::/0".parse().unwrap();
        assert!(everything.contains(ip("ffff::")) && !everything.contains(ip("10.0.0.1")));
    }
}
