//! Who holds how much: a bounded table of tenants, and the share of the room each may have. While there is room, a tenant may use
//! what the others leave; when it gets scarce, who holds its share or more is refused until it holds less, and the others are not.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::limit::Limit;
use crate::{BufferMode, Config, Pipeline, RECORD_DISK_BYTES, TenantGauge};

/// Fill, in permille, from which nothing is lent: what is left beyond is for those who hold less than their share. It lies below the
/// fill from which Normal and Bulk find no room.
const LENT_PERMILLE: u64 = 750;
/// How far, in permille, the fill or a tenant's part of its share falls before the tenant is no longer refused.
const HYSTERESIS_PERMILLE: u64 = 50;
/// Longest name, in bytes, that is told apart: that of a namespace has at most 63.
const NAME_BYTES_MAX: usize = 128;

/// A tenant, until the next call of `Pipeline::tenant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenant(u16);

impl Tenant {
    /// Nobody: what the kernel gave, what a start found on disk, and everything where tenants are not told apart. Never refused.
    pub(crate) const NOBODY: Self = Self(0);
    /// All those together who have no name of their own in the table.
    const OTHERS: Self = Self(1);
}

/// What one tenant holds.
#[derive(Debug, Default)]
struct Account {
    name: Box<str>,
    bytes: u64,
    records: u64,
    refused: u64,
    limit: Limit,
    /// Position of its last request among all requests.
    asked: u64,
}

/// The table. Its first two places are taken: nobody, and the others.
#[derive(Debug)]
pub(crate) struct Tenants {
    accounts: Vec<Account>,
    by_name: BTreeMap<Box<str>, Tenant>,
    named_max: usize,
    /// What a record takes beside its body.
    record_bytes: u64,
    /// Tenants that hold something, nobody aside.
    holding: u64,
    requests: u64,
}

impl Tenants {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            accounts: vec![Account::default(), Account { name: "(others)".into(), ..Account::default() }],
            by_name: BTreeMap::new(),
            named_max: config.tenants_max.min(Config::TENANTS_MAX),
            record_bytes: if config.mode == BufferMode::Memory { 0 } else { RECORD_DISK_BYTES },
            holding: 0,
            requests: 0,
        }
    }

    fn get(&self, tenant: Tenant) -> Option<&Account> {
        self.accounts.get(usize::from(tenant.0))
    }

    fn get_mut(&mut self, tenant: Tenant) -> Option<&mut Account> {
        self.accounts.get_mut(usize::from(tenant.0))
    }

    /// The account of a name; one that holds nothing makes place for a new name.
    fn find(&mut self, name: Option<&str>) -> Tenant {
        if self.named_max == 0 {
            return Tenant::NOBODY;
        }
        self.requests += 1;
        let Some(name) = name.filter(|name| (1..=NAME_BYTES_MAX).contains(&name.len())) else { return Tenant::OTHERS };
        let tenant = self.by_name.get(name).copied().or_else(|| self.add(name)).unwrap_or(Tenant::OTHERS);
        let requests = self.requests;
        if let Some(account) = self.get_mut(tenant) {
            account.asked = requests;
        }
        tenant
    }

    fn add(&mut self, name: &str) -> Option<Tenant> {
        if self.by_name.len() < self.named_max {
            self.accounts.push(Account::default());
        }
        let named = self.accounts.iter_mut().enumerate().skip(2);
        let (place, account) = named.filter(|(_, account)| account.records == 0).min_by_key(|(_, account)| account.asked)?;
        let tenant = Tenant(u16::try_from(place).ok()?);
        let before = std::mem::replace(account, Account { name: name.into(), ..Account::default() });
        self.by_name.remove(&before.name);
        self.by_name.insert(name.into(), tenant);
        Some(tenant)
    }

    /// A tenant's record is held, or about to be.
    pub(crate) fn take(&mut self, tenant: Tenant, body: u32) {
        let bytes = self.size(body);
        let Some(account) = self.get_mut(tenant) else { return };
        account.bytes += bytes;
        account.records += 1;
        let is_first = account.records == 1 && tenant != Tenant::NOBODY;
        self.holding += u64::from(is_first);
    }

    /// A tenant's record is held no more.
    pub(crate) fn give(&mut self, tenant: Tenant, body: u32) {
        let bytes = self.size(body);
        let Some(account) = self.get_mut(tenant) else { return };
        account.bytes = account.bytes.saturating_sub(bytes);
        account.records = account.records.saturating_sub(1);
        let is_last = account.records == 0 && tenant != Tenant::NOBODY;
        self.holding = self.holding.saturating_sub(u64::from(is_last));
    }

    /// What a record counts for: the room it competes for is that of the disk, if there is one.
    pub(crate) fn size(&self, body: u32) -> u64 {
        u64::from(body) + self.record_bytes
    }

    /// What a tenant holds, in bytes.
    pub(crate) fn bytes(&self, tenant: Tenant) -> u64 {
        self.get(tenant).map_or(0, |account| account.bytes)
    }

    /// Whether a tenant holds its share, or more, while room is scarce: the budget divided by those who hold something.
    fn is_over(&mut self, tenant: Tenant, now: Duration, fill: u64, budget: u64) -> bool {
        let holding = self.holding;
        let Some(account) = self.get_mut(tenant) else { return false };
        let share = budget / (holding + u64::from(account.records == 0));
        if fill >= LENT_PERMILLE && account.bytes >= share {
            account.limit.reach(now);
        } else if fill < LENT_PERMILLE - HYSTERESIS_PERMILLE || account.bytes < share - share * HYSTERESIS_PERMILLE / 1_000 {
            account.limit.leave(now);
        }
        let is_over = account.limit.is_reached();
        account.refused += u64::from(is_over);
        is_over
    }

    /// One per tenant that holds something or was refused; none where tenants are not told apart.
    pub(crate) fn gauges(&self) -> Vec<TenantGauge> {
        let seen = self.accounts.iter().skip(1).filter(|account| account.records > 0 || account.refused > 0);
        let gauge = |account: &Account| TenantGauge {
            name: account.name.to_string(),
            held_bytes: account.bytes,
            held_records: account.records,
            refused: account.refused,
        };
        seen.map(gauge).collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = Tenant> {
        (0..).take(self.accounts.len()).map(Tenant)
    }
}

impl Pipeline {
    /// The tenant of that name, to be named as a request's origin at once: a tenant that holds nothing loses its place in the table to
    /// a new one. A name that is none, too long, or without a place is that of all the others together.
    pub fn tenant(&mut self, name: Option<&str>) -> Tenant {
        self.tenants.find(name)
    }

    /// Whether a tenant is refused because it holds its share while room is scarce.
    pub(crate) fn is_over_quota(&mut self, tenant: Tenant) -> bool {
        if tenant == Tenant::NOBODY {
            return false;
        }
        let (fill, budget) = match self.config.mode {
            BufferMode::Memory => (self.space.permille(), self.config.memory.bytes),
            BufferMode::Spill | BufferMode::Mirror | BufferMode::Archive => (self.space.shares.permille(), self.space.shares.bytes_max()),
        };
        self.tenants.is_over(tenant, self.now, fill, budget)
    }
}
