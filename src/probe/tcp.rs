//! The simplest probe: whoever takes a connection passes. Called by [`super::runner`].

use super::dial::{Aim, Dialer, Failure};

/// Opens a connection and closes it.
pub(super) async fn probe(dialer: &Dialer, aim: &Aim<'_>) -> Result<Option<u16>, Failure> {
    let addresses = dialer.addresses(aim).await?;
    dialer.connect(aim, &addresses).await?;
    Ok(None)
}
