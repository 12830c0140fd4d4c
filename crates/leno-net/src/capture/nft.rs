//! nftables as netlink messages: tables, chains, sets and rules, as `linux/netfilter/nf_tables.h` numbers them.
//!
//! Attributes are big-endian; values compared with a mark, a cgroup id or a connection state are in the host's order, as
//! the kernel has them in its registers. A payload is only read after the network protocol was checked.

use std::net::IpAddr;

use crate::netlink::{self, ACK, Attributes, Batch, CREATE, DUMP, EXCLUSIVE};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
const NEW_SET_ELEMENT: u16 = 12;

const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const ACCEPT: i32 = 1;
const GOTO: i32 = -4;

const META_MARK: u32 = 3;
const META_IIFTYPE: u32 = 8;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const ARPHRD_LOOPBACK: u16 = 772;
const CT_STATE: u32 = 0;
const CT_MARK: u32 = 3;
const CT_ZONE: u32 = 17;
/// `IP_CT_DIR_ORIGINAL`.
const CT_ORIGINAL: u8 = 0;
const SOCKET_CGROUPV2: u32 = 3;
/// `NFT_FIB_RESULT_ADDRTYPE` and `NFTA_FIB_F_DADDR`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// `RTN_LOCAL`.
const TYPE_LOCAL: u32 = 2;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Established or related (`NF_CT_STATE_BIT`).
const CT_KNOWN: u32 = 2 | 4;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What a base chain does and where.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hook {
    /// Address translation of packets made here.
    NatOutput,
    /// Address translation of packets that come in.
    NatPrerouting,
    /// Filter of packets made here, after translation.
    FilterOutput,
    /// Packets made here, before anybody tracks their connections.
    RawOutput,
    /// Packets made here, which are routed again where their mark changes.
    RouteOutput,
    /// Filter of packets delivered here, after translation.
    FilterInput,
}

/// How a table begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It must not be there yet. Much faster: to delete, the kernel waits until no packet can meet the old rules.
    New,
    /// In place of the one that is there, if there is one.
    Replace,
}

/// What a set's keys are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key {
    Port,
    Cgroup,
}

impl Key {
    /// The type's number in the `nft` tool, which only it reads, and the length.
    fn kind_and_length(self) -> (u32, u32) {
        match self {
            Self::Port => (13, 2),
            Self::Cgroup => (46, 8),
        }
    }
}

/// Why a packet is refused, for whichever network protocol it has.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reject {
    PortUnreachable = 1,
    Prohibited = 3,
}

/// A table under construction, as one batch that is applied wholly or not at all.
#[derive(Debug)]
pub(super) struct Table<'a> {
    name: &'a str,
    batch: Batch,
    sets: u32,
    rules: usize,
}

/// A batch, and how many rules its table has afterwards.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) batch: Batch,
    pub(super) rules: usize,
}

impl<'a> Table<'a> {
    /// A batch that makes table `name` of what is added next.
    pub(super) fn make(name: &'a str, start: Start) -> Self {
        let mut table = Self::begin(name);
        match start {
            Start::New => table.message(NEW_TABLE, CREATE | EXCLUSIVE, |_| {}),
            Start::Replace => {
                // Deleting what is not there is an error, so it is made first; only kernels since 6.3 know
                // DESTROYTABLE.
                table.message(NEW_TABLE, CREATE, |_| {});
                table.message(DELETE_TABLE, 0, |_| {});
                table.message(NEW_TABLE, CREATE, |_| {});
            }
        }
        table
    }

    /// A batch that deletes table `name`.
    pub(super) fn delete(name: &'a str) -> Self {
        let mut table = Self::begin(name);
        table.message(DELETE_TABLE, 0, |_| {});
        table
    }

    fn begin(name: &'a str) -> Self {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, &generation(0), |_| {});
        Self {
            name,
            batch,
            sets: 0,
            rules: 0,
        }
    }

    /// The finished batch.
    pub(super) fn finish(mut self) -> Made {
        self.batch.message(BATCH_END, 0, &generation(0), |_| {});
        Made {
            batch: self.batch,
            rules: self.rules,
        }
    }

    /// A message of the table; its name is the first attribute of all of them.
    fn message(&mut self, kind: u16, flags: u16, attributes: impl FnOnce(&mut Attributes<'_>)) {
        let name = self.name;
        self.batch.message(
            SUBSYSTEM << 8 | kind,
            flags | ACK,
            &family(FAMILY_INET),
            |to| {
                to.text(1, name);
                attributes(to);
            },
        );
    }

    /// A base chain.
    pub(super) fn base_chain(&mut self, chain: &str, hook: Hook) {
        let (number, priority, kind): (u32, i32, &str) = match hook {
            Hook::NatPrerouting => (0, -100, "nat"),
            Hook::FilterInput => (1, 0, "filter"),
            Hook::NatOutput => (3, -100, "nat"),
            Hook::FilterOutput => (3, 0, "filter"),
            Hook::RawOutput => (3, -300, "filter"),
            Hook::RouteOutput => (3, -150, "route"),
        };
        self.message(NEW_CHAIN, CREATE, |to| {
            to.text(3, chain);
            to.nested(4, |to| {
                to.u32_be(1, number);
                to.u32_be(2, priority.cast_unsigned());
            });
            to.text(7, kind);
        });
    }

    /// A chain that others go to.
    pub(super) fn chain(&mut self, chain: &str) {
        self.message(NEW_CHAIN, CREATE, |to| to.text(3, chain));
    }

    /// A set with its elements, which must differ.
    pub(super) fn set(&mut self, set: &str, key: Key, elements: impl Iterator<Item = Vec<u8>>) {
        let (kind, length) = key.kind_and_length();
        self.sets += 1;
        let id = self.sets;
        self.message(NEW_SET, CREATE, |to| {
            to.text(2, set);
            to.u32_be(3, 0);
            to.u32_be(4, kind);
            to.u32_be(5, length);
            to.u32_be(10, id);
            if let Key::Cgroup = key {
                // For the `nft` tool alone: keys are in the host's order, or it shows them reversed.
                const KEY_BYTE_ORDER: u8 = 0;
                let [a, b, c, d] = 1_u32.to_ne_bytes();
                to.bytes(13, &[KEY_BYTE_ORDER, 4, a, b, c, d]);
            }
        });
        self.message(NEW_SET_ELEMENT, CREATE, |to| {
            to.text(2, set);
            to.u32_be(4, id);
            to.nested(3, |to| {
                for element in elements {
                    to.nested(1, |to| to.nested(1, |to| to.bytes(DATA_VALUE, &element)));
                }
            });
        });
    }

    /// A rule at the end of `chain`.
    pub(super) fn rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Rule<'_, '_>)) {
        const APPEND: u16 = 0x800;
        self.rules += 1;
        self.message(NEW_RULE, CREATE | APPEND, |to| {
            to.text(2, chain);
            to.nested(4, |to| expressions(&mut Rule(to)));
        });
    }
}

/// The length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

/// `struct nfgenmsg` of a table's messages.
fn family(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// A request for table `name` itself.
pub(super) fn get(name: &str) -> Batch {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM << 8 | GET_TABLE, 0, &family(FAMILY_INET), |to| {
        to.text(1, name)
    });
    batch
}

/// A request for every rule of table `name`.
pub(super) fn list_rules(name: &str) -> Batch {
    let mut batch = Batch::default();
    let kind = SUBSYSTEM << 8 | GET_RULE;
    batch.message(kind, DUMP, &family(FAMILY_INET), |to| to.text(1, name));
    batch
}

/// Whether an answer to [`list_rules`] is a rule of table `name`.
pub(super) fn is_rule_of(name: &str, answer: &[u8]) -> bool {
    let attributes = answer.get(FAMILY_HEADER..).unwrap_or_default();
    let table = netlink::attribute(attributes, 1).and_then(|table| table.strip_suffix(&[0]));
    table == Some(name.as_bytes())
}

/// A request for every chain of every table and family.
pub(super) fn list_chains() -> Batch {
    let mut batch = Batch::default();
    batch.message(SUBSYSTEM << 8 | GET_CHAIN, DUMP, &family(0), |_| {});
    batch
}

/// Of an answer to [`list_chains`]: family, table and name of a chain of the machine's input whose policy is to drop.
pub(super) fn closed_input(answer: &[u8]) -> Option<(u8, String, String)> {
    /// `NF_INET_LOCAL_IN` and `NF_DROP`.
    const INPUT: [u8; 4] = [0, 0, 0, 1];
    const DROP: [u8; 4] = [0; 4];
    let attributes = answer.get(FAMILY_HEADER..)?;
    let hook = netlink::attribute(attributes, 4)?;
    let text = |kind| {
        let text = netlink::attribute(attributes, kind)?.strip_suffix(&[0])?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let closed =
        netlink::attribute(hook, 1)? == INPUT && netlink::attribute(attributes, 5)? == DROP;
    closed.then_some((*answer.first()?, text(1)?, text(3)?))
}

/// `struct nfgenmsg` of the batch's begin and end: the subsystem is its resource.
fn generation(family: u8) -> [u8; 4] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [family, 0, high, low]
}

/// A rule's expressions: matches in order, then one verdict.
pub(super) struct Rule<'a, 'b>(&'a mut Attributes<'b>);

impl Rule<'_, '_> {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.0.nested(1, |to| {
            to.text(1, name);
            to.nested(2, data);
        });
        self
    }

    fn compare(&mut self, operator: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, operator);
            to.nested(3, |to| to.bytes(DATA_VALUE, value));
        })
    }

    fn meta(&mut self, key: u32, value: &[u8]) -> &mut Self {
        self.expression("meta", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, key);
        });
        self.compare(EQUAL, value)
    }

    /// Gives the packet a mark.
    pub(super) fn set_mark(&mut self, mark: u32) -> &mut Self {
        self.value(&mark.to_ne_bytes());
        self.expression("meta", |to| {
            to.u32_be(2, META_MARK);
            to.u32_be(3, REGISTER);
        })
    }

    /// Its connection has a mark.
    pub(super) fn connection_mark(&mut self, mark: u32) -> &mut Self {
        self.expression("ct", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, CT_MARK);
        });
        self.compare(EQUAL, &mark.to_ne_bytes())
    }

    /// Gives its connection a mark.
    pub(super) fn set_connection_mark(&mut self, mark: u32) -> &mut Self {
        self.value(&mark.to_ne_bytes());
        self.expression("ct", |to| {
            to.u32_be(2, CT_MARK);
            to.u32_be(4, REGISTER);
        })
    }

    /// Has its connection tracked in a zone of its own, as far as packets of this direction go.
    pub(super) fn set_original_zone(&mut self, zone: u16) -> &mut Self {
        self.value(&zone.to_ne_bytes());
        self.expression("ct", |to| {
            to.u32_be(2, CT_ZONE);
            to.bytes(3, &[CT_ORIGINAL]);
            to.u32_be(4, REGISTER);
        })
    }

    fn value(&mut self, value: &[u8]) -> &mut Self {
        self.expression("immediate", |to| {
            to.u32_be(1, REGISTER);
            to.nested(2, |to| to.bytes(DATA_VALUE, value));
        })
    }

    fn load(&mut self, base: u32, offset: u32, length: u32) -> &mut Self {
        self.expression("payload", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, base);
            to.u32_be(3, offset);
            to.u32_be(4, length);
        })
    }

    fn mask(&mut self, mask: &[u8]) -> &mut Self {
        let length = u32::try_from(mask.len()).unwrap_or_default();
        self.expression("bitwise", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, REGISTER);
            to.u32_be(3, length);
            to.nested(4, |to| to.bytes(DATA_VALUE, mask));
            to.nested(5, |to| to.bytes(DATA_VALUE, &vec![0; mask.len()]));
        })
    }

    fn lookup(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |to| {
            to.text(1, set);
            to.u32_be(2, REGISTER);
        })
    }

    pub(super) fn mark(&mut self, mark: u32) -> &mut Self {
        self.meta(META_MARK, &mark.to_ne_bytes())
    }

    /// The program that sends it runs as this user.
    pub(super) fn user(&mut self, uid: u32) -> &mut Self {
        self.meta(META_SKUID, &uid.to_ne_bytes())
    }

    pub(super) fn protocol(&mut self, protocol: u8) -> &mut Self {
        self.meta(META_L4PROTO, &[protocol])
    }

    /// The packet came in by loopback.
    pub(super) fn by_loopback(&mut self) -> &mut Self {
        self.meta(META_IIFTYPE, &ARPHRD_LOOPBACK.to_ne_bytes())
    }

    /// Its destination is an address of this namespace.
    pub(super) fn destined_here(&mut self) -> &mut Self {
        self.expression("fib", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, FIB_ADDRESS_TYPE);
            to.u32_be(3, FIB_DESTINATION);
        });
        self.compare(EQUAL, &TYPE_LOCAL.to_ne_bytes())
    }

    /// It belongs to a connection, or is an error about one, that was let through before.
    pub(super) fn known_connection(&mut self) -> &mut Self {
        self.expression("ct", |to| {
            to.u32_be(1, REGISTER);
            to.u32_be(2, CT_STATE);
        });
        self.mask(&CT_KNOWN.to_ne_bytes());
        self.compare(NOT_EQUAL, &[0; 4])
    }

    /// The destination is in a network.
    pub(super) fn destination(&mut self, network: (IpAddr, u8)) -> &mut Self {
        let (address, prefix) = network;
        let mask = |bytes: usize| -> Vec<u8> {
            let ones = u128::MAX
                .checked_shl(128_u32.saturating_sub(u32::from(prefix)))
                .unwrap_or(0);
            ones.to_be_bytes().into_iter().take(bytes).collect()
        };
        match address {
            IpAddr::V4(address) => {
                self.meta(META_NFPROTO, &[FAMILY_IPV4])
                    .load(NETWORK_HEADER, 16, 4);
                self.masked_compare(&mask(4), &address.octets())
            }
            IpAddr::V6(address) => {
                self.meta(META_NFPROTO, &[FAMILY_IPV6])
                    .load(NETWORK_HEADER, 24, 16);
                self.masked_compare(&mask(16), &address.octets())
            }
        }
    }

    fn masked_compare(&mut self, mask: &[u8], address: &[u8]) -> &mut Self {
        let network: Vec<u8> = address
            .iter()
            .zip(mask)
            .map(|(byte, mask)| byte & mask)
            .collect();
        if mask.iter().any(|byte| *byte != u8::MAX) {
            self.mask(mask);
        }
        self.compare(EQUAL, &network)
    }

    /// Destination port of TCP or UDP; the protocol must be checked already.
    pub(super) fn port(&mut self, port: u16) -> &mut Self {
        self.load(TRANSPORT_HEADER, 2, 2)
            .compare(EQUAL, &port.to_be_bytes())
    }

    /// As `port`, in a set.
    pub(super) fn port_in(&mut self, set: &str) -> &mut Self {
        self.load(TRANSPORT_HEADER, 2, 2).lookup(set)
    }

    /// The socket was made in, or below, a cgroup of a set of cgroups at `level`.
    pub(super) fn cgroup_in(&mut self, level: u32, set: &str) -> &mut Self {
        self.expression("socket", |to| {
            to.u32_be(1, SOCKET_CGROUPV2);
            to.u32_be(2, REGISTER);
            to.u32_be(3, level);
        });
        self.lookup(set)
    }

    /// An echo request over IPv4.
    pub(super) fn ping_v4(&mut self) -> &mut Self {
        self.meta(META_NFPROTO, &[FAMILY_IPV4])
            .protocol(ICMP)
            .load(TRANSPORT_HEADER, 0, 1)
            .compare(EQUAL, &[8])
    }

    /// An echo request over IPv6.
    pub(super) fn ping_v6(&mut self) -> &mut Self {
        self.meta(META_NFPROTO, &[FAMILY_IPV6])
            .protocol(ICMPV6)
            .load(TRANSPORT_HEADER, 0, 1)
            .compare(EQUAL, &[128])
    }

    fn verdict(&mut self, code: i32, chain: Option<&str>) {
        self.expression("immediate", |to| {
            to.u32_be(1, REGISTER_VERDICT);
            to.nested(2, |to| {
                to.nested(DATA_VERDICT, |to| {
                    to.u32_be(1, code.cast_unsigned());
                    if let Some(chain) = chain {
                        to.text(2, chain);
                    }
                });
            });
        });
    }

    /// Lets the packet pass this chain.
    pub(super) fn accept(&mut self) {
        self.verdict(ACCEPT, None);
    }

    /// Goes on in another chain, and does not come back.
    pub(super) fn goto(&mut self, chain: &str) {
        self.verdict(GOTO, Some(chain));
    }

    /// Sends the connection to a port of this namespace: on loopback for packets made here.
    pub(super) fn redirect(&mut self, port: u16) {
        self.value(&port.to_be_bytes());
        self.expression("redir", |to| to.u32_be(1, REGISTER));
    }

    /// Refuses the packet and tells its sender.
    pub(super) fn reject(&mut self, why: Reject) {
        const ICMPX: u32 = 2;
        self.expression("reject", |to| {
            to.u32_be(1, ICMPX);
            to.bytes(2, &[why as u8]);
        });
    }
}
