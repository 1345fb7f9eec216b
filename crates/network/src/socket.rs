//! How a connection's socket is set up, on both sides alike.

use std::io;

use rustix::net::sockopt;
use tokio::net::TcpStream;

use crate::limits::{HALF_OPEN_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL};

/// Sends at once, and finds out in bounded time that the other side is gone without a word (power loss, partition).
pub(crate) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    // Also bounds the unanswered keepalives, instead of a count of them.
    let timeout_ms = u32::try_from(HALF_OPEN_TIMEOUT.as_millis()).expect("a few seconds");
    sockopt::set_tcp_user_timeout(stream, timeout_ms)?;
    Ok(())
}
