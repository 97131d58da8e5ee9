//! What needs the authority: one member's word, or that of several, given one transaction each.
//!
//! Members agree on the *same actions*: whoever signs a transaction with actions that another member
//! has signed joins him, and the last one needed executes them.

use counterpoint_core::{
    action::Action,
    authority::Authority,
    primitive::Height,
    state::{Approval, AuthorityRecord, Table},
};

use crate::{
    execute::{ExecuteError, TxContext},
    rejection::Rejection,
    state::{Key, ReadRecords, StateDelta, StateRead, StoreError, decode},
};

/// Heights for which members may join a proposal.
const OPEN_HEIGHTS: u64 = 1_000_000;
/// Most open proposals that one member began.
const MAX_OPEN_PER_MEMBER: usize = 8;

/// Whether actions may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreement {
    Reached,
    /// Others must join first.
    Pending,
}

/// Takes the signer's word for `actions`, if they need the authority at all.
pub(crate) fn agree<S: StateRead>(
    ctx: &TxContext<'_>,
    actions: &[Action],
    delta: &mut StateDelta<'_, S>,
) -> Result<Agreement, ExecuteError> {
    if !actions.iter().any(Action::needs_authority) {
        return Ok(Agreement::Reached);
    }
    if !actions.iter().all(Action::needs_authority) {
        return Err(Rejection::MixedAuthority.into());
    }
    let AuthorityRecord { epoch, authority } = delta
        .read(&Key::Authority)?
        .ok_or(Rejection::NotAuthority)?;
    if !authority.members().contains(&ctx.signer) {
        return Err(Rejection::NotAuthority.into());
    }
    let key = Key::Approval(Authority::proposal(epoch, actions));
    let open = drop_expired(ctx.height, delta)?;
    let mut approval = match delta.read::<Approval>(&key)? {
        Some(approval) => approval,
        None => {
            let begun = open
                .iter()
                .filter(|approval| approval.members.first() == Some(&ctx.signer));
            if begun.count() >= MAX_OPEN_PER_MEMBER {
                return Err(Rejection::TooManyProposals.into());
            }
            Approval {
                members: Vec::new(),
                valid_until: Height::new(ctx.height.get().saturating_add(OPEN_HEIGHTS)),
            }
        }
    };
    if approval.members.contains(&ctx.signer) {
        return Err(Rejection::AlreadyApproved.into());
    }
    approval.members.push(ctx.signer);
    if approval.members.len() >= usize::from(authority.threshold()) {
        delta.delete(&key);
        return Ok(Agreement::Reached);
    }
    delta.put(&key, &approval)?;
    Ok(Agreement::Pending)
}

/// Forgets proposals that nobody may join any more; gives the others.
fn drop_expired<S: StateRead>(
    height: Height,
    delta: &mut StateDelta<'_, S>,
) -> Result<Vec<Approval>, StoreError> {
    let mut open = Vec::new();
    for (key, value) in delta.scan(&[Table::Approvals as u8])? {
        let approval: Approval = decode(&key, &value)?;
        if approval.valid_until < height {
            delta.delete_encoded(key);
        } else {
            open.push(approval);
        }
    }
    Ok(open)
}
