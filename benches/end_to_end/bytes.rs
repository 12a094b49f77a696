//! What an event takes on the disk: the file's pages before and after so many lookups, and so many heartbeats, with all
//! that is derived from them for searching.

use std::path::Path;

use rollcall::log::sqlite::{FILE, derive_all};
use rusqlite::Connection;

use crate::Failure;
use crate::fleet;
use crate::http1::Client;
use crate::logs::DATA;
use crate::options::Options;
use crate::requests::Requests;
use crate::servers::Server;
use crate::sheet::Sheet;
use crate::work::Work;

/// Clients that ask at once.
const CLIENTS: usize = 16;

/// Measures both kinds and shows the figures.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut sheet = Sheet::new("bytes", options);
    let dir = tempfile::tempdir_in(&options.dir)?;
    let server = Server::rollcall(dir.path(), options)?;
    fleet::register(server.address, options, options.services, options.instances)?;
    server.end()?;
    let mut before = size(dir.path())?;
    for (work, most) in [(Work::Lookup, 100.0), (Work::Heartbeat, 64.0)] {
        let server = Server::rollcall(dir.path(), options)?;
        let sent = send(&server, work, options)?;
        server.end()?;
        let after = size(dir.path())?;
        let each = after.saturating_sub(before) as f64 / sent as f64;
        sheet.figure(format!("{} that were written", work.name()), sent as f64, "");
        sheet.figure(format!("bytes on disk for a {}", work.name()), each, "B");
        let name = format!("bytes on disk for a {}, indexes included", work.name());
        sheet.at_most(&name, each, most, " B");
        before = after;
    }
    sheet.show(options)
}

fn send(server: &Server, work: Work, options: &Options) -> Result<usize, Failure> {
    let each = options.bytes.div_ceil(CLIENTS);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS as u64)
            .map(|number| {
                scope.spawn(move || -> Result<(), Failure> {
                    let mut client = Client::open(server.address)?;
                    let mut requests = Requests::new(work, options, number);
                    for _ in 0..each {
                        let answer = client.exchange(requests.next())?;
                        if !work.is_answered_by(answer.status) {
                            let name = work.name();
                            return Err(format!("a {name} was answered {}", answer.status).into());
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().map_err(|_| "a client panicked")??;
        }
        Ok(each * CLIENTS)
    })
}

/// Bytes of the pages in use, after everything was derived that a registry derives in its quiet moments.
fn size(dir: &Path) -> Result<u64, Failure> {
    let data = dir.join(DATA);
    derive_all(&data)?;
    let connection = Connection::open(data.join(FILE))?;
    let figure = |pragma: &str| -> Result<u64, Failure> {
        let figure: i64 = connection.pragma_query_value(None, pragma, |row| row.get(0))?;
        Ok(u64::try_from(figure)?)
    };
    Ok((figure("page_count")? - figure("freelist_count")?) * figure("page_size")?)
}
