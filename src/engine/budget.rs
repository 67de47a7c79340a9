//! Watches over the WAL that a source keeps for the project: says loudly when that is more than `wal_budget`, or when
//! the server is about to remove what is still needed; names the pipeline that holds it. Where the configuration says
//! so, a pipeline that has failed loses its place then, and nobody else.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::requests::Member;
use crate::change::Lsn;
use crate::codes::Code;
use crate::config::{OnWalBudget, WalBudget, shown_size};
use crate::pipeline::standstill::Order;
use crate::pipeline::state::Phase;
use crate::source::slot::Retention;

/// How often the same is said again.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// What watches over one slot.
#[derive(Debug)]
pub struct Budget {
    connection: String,
    slot: String,
    budget: WalBudget,
    members: Vec<Member>,
    /// Pipelines that couldn't start, and hold the slot all the same.
    aside: Vec<String>,
    told: Option<Instant>,
    told_of_risk: Option<Instant>,
}

/// What the server says of the slot.
struct Held {
    wal_lsn: Lsn,
    bytes: u64,
    safe_bytes: Option<i64>,
    is_unreserved: bool,
    is_active: bool,
}

impl Held {
    /// None where the slot keeps nothing (any more).
    fn from(wal_lsn: Lsn, retention: &Retention) -> Option<Self> {
        Some(Held {
            wal_lsn,
            bytes: u64::try_from(retention.held_bytes?).unwrap_or(0),
            safe_bytes: retention.safe_bytes,
            is_unreserved: retention.wal_status.as_deref() == Some("unreserved"),
            is_active: retention.is_active,
        })
    }
}

impl Budget {
    /// For the pipelines that read from that slot.
    pub fn new(
        connection: String,
        slot: String,
        budget: WalBudget,
        members: Vec<Member>,
        aside: Vec<String>,
    ) -> Self {
        Budget { connection, slot, budget, members, aside, told: None, told_of_risk: None }
    }

    /// Looks once at what the slot keeps, which was read just now, after the WAL ended at `wal_lsn`.
    pub async fn look(
        &mut self,
        client: &Client,
        wal_lsn: Lsn,
        retention: &Retention,
    ) -> Result<(), tokio_postgres::Error> {
        let Some(held) = Held::from(wal_lsn, retention) else { return Ok(()) };
        self.tell_of_risk(&held);
        if held.bytes > self.budget.bytes {
            let holder = self.holder(&held);
            if let (OnWalBudget::GiveUp, Some((holder, true))) = (self.budget.on_excess, holder) {
                let reason = format!(
                    "its place was given up, since the source kept {} of WAL for it, more than wal_budget {}",
                    shown_size(held.bytes),
                    shown_size(self.budget.bytes)
                );
                // Full only if it was told so already.
                holder.orders.try_send(Order::GiveUp(reason)).ok();
            } else if is_due(self.told) {
                self.told = Some(Instant::now());
                self.tell(&held);
            }
        }
        // Where nobody streams, nobody tells the slot that all it waited for was given up. The position was read before
        // looking at the pipelines: one that has begun to hold the slot since then will need nothing from before it.
        let is_needless = self.aside.is_empty() && self.members.iter().all(|m| m.floor.is_given_up());
        if !held.is_active && !self.members.is_empty() && is_needless {
            let sql = "SELECT pg_catalog.pg_replication_slot_advance($1, $2::text::pg_lsn)";
            client.execute(sql, &[&self.slot, &held.wal_lsn.to_string()]).await?;
        }
        Ok(())
    }

    /// The pipeline that is furthest behind, if the slot exceeds its budget for that; and whether it has failed.
    fn holder(&self, held: &Held) -> Option<(&Member, bool)> {
        let holders = self.members.iter().filter(|member| !member.floor.is_given_up());
        let has_failed = |member: &Member| member.state.phase() == Phase::Failed;
        let holder = holders.min_by_key(|member| (stands_at(member), !has_failed(member)))?;
        let is_behind = held.wal_lsn.bytes_since(stands_at(holder)) > self.budget.bytes;
        is_behind.then(|| (holder, has_failed(holder)))
    }

    fn tell(&self, held: &Held) {
        let Budget { connection, slot, .. } = self;
        let (bytes, budget) = (shown_size(held.bytes), shown_size(self.budget.bytes));
        let why = match self.holder(held) {
            Some((member, true)) => {
                let name = member.name();
                format!(
                    "pipeline {name}, which has failed and stands at {}, holds it. Mend the cause, then trucker resume \
                     {name}; or trucker skip {name}; or give its place up and fill it anew: trucker backfill {name}",
                    stands_at(member)
                )
            }
            Some((member, false)) => format!(
                "pipeline {}, which stands at {}, holds it: its output, its SQL or its backfill is slow, or can't be \
                 reached",
                member.name(),
                stands_at(member)
            ),
            None if !self.aside.is_empty() => format!(
                "held for what can't start (pipeline {}). Mend the cause, and it goes on by itself; or remove its folder and \
                 start trucker again: its place is given up then",
                self.aside.join(", ")
            ),
            None => "no pipeline is that far behind: a long transaction on the source holds it, or trucker has only \
                     just caught up"
                .to_owned(),
        };
        tracing::warn!(event = "wal_budget", code = %Code::WalBudget, connection = %connection, slot = %slot, held_bytes = held.bytes,
            "connection {connection}: slot {slot} makes the source keep {bytes} of WAL, more than wal_budget {budget}: {why}");
    }

    /// `max_slot_wal_keep_size` is near: beyond it the server removes WAL, and the slot is lost.
    fn tell_of_risk(&mut self, held: &Held) {
        let left = held.safe_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let is_near = held.is_unreserved || left.is_some_and(|left| left < held.bytes / 4);
        if !is_near || !is_due(self.told_of_risk) {
            return;
        }
        self.told_of_risk = Some(Instant::now());
        let Budget { connection, slot, .. } = self;
        tracing::warn!(event = "wal_at_risk", code = %Code::WalAtRisk, connection = %connection, slot = %slot,
            "connection {connection}: slot {slot} is about to be lost, and every pipeline to need a backfill: the source \
             keeps {} of WAL for it, and will remove it after {} more. Raise max_slot_wal_keep_size, or see to the \
             pipeline that is furthest behind (trucker status)",
            shown_size(held.bytes), shown_size(left.unwrap_or(0)));
    }
}

fn is_due(told: Option<Instant>) -> bool {
    told.is_none_or(|at| at.elapsed() >= TELL_INTERVAL)
}

/// Where a pipeline will go on: its floor begins at the slot, and rises once its output can be reached.
fn stands_at(member: &Member) -> Lsn {
    member.floor.lsn().max(member.state.loaded_lsn())
}
