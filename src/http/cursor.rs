//! Cursors: where the next page of a list begins, as a text that means nothing to the client. Each names its
//! list and its log, so that one of another log is refused and never misread.

use super::problem::Problem;

/// Which list a cursor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// `GET /v1/services`.
    Services,
    /// `GET /v1/events`.
    Events,
}

impl List {
    fn letter(self) -> u8 {
        match self {
            Self::Services => b's',
            Self::Events => b'e',
        }
    }
}

/// Makes and reads the cursors of one log.
#[derive(Debug)]
pub(super) struct Cursors {
    log_id: [u8; 16],
}

impl Cursors {
    /// The cursors of the log of this id.
    pub(super) fn of(log_id: uuid::Uuid) -> Self {
        Self { log_id: log_id.into_bytes() }
    }

    /// A cursor that carries `place`.
    pub(super) fn write(&self, list: List, place: &str) -> String {
        let head = self.log_id.into_iter().chain([list.letter()]);
        let bytes = head.chain(place.bytes());
        bytes.flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// The place in a cursor of this list and this log.
    ///
    /// # Errors
    /// [`Problem::InvalidCursor`], which says whether it was another log's.
    pub(super) fn read(&self, list: List, text: &str) -> Result<String, Problem> {
        let broken = || Problem::InvalidCursor { detail: "it was not given out by this list" };
        let bytes = decode(text).ok_or_else(broken)?;
        let (log_id, rest) = bytes.split_at_checked(self.log_id.len()).ok_or_else(broken)?;
        let (letter, place) = rest.split_first().ok_or_else(broken)?;
        if log_id != self.log_id {
            return Err(Problem::InvalidCursor {
                detail: "it is of another log; begin again without a cursor",
            });
        }
        if *letter != list.letter() {
            return Err(broken());
        }
        String::from_utf8(place.to_vec()).map_err(|_| broken())
    }
}

fn digit(value: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(value)])
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(value(pair[0])? << 4 | value(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_one_list_and_one_log() {
        let [mine, other] = [1, 2].map(|id| Cursors::of(uuid::Uuid::from_u128(id)));
        let cursor = mine.write(List::Services, "default/orders");
        assert_eq!(mine.read(List::Services, &cursor).as_deref(), Ok("default/orders"));
        let detail = |result: Result<String, Problem>| match result {
            Err(Problem::InvalidCursor { detail }) => detail,
            other => panic!("{other:?}"),
        };
        assert!(detail(other.read(List::Services, &cursor)).contains("another log"));
        for broken in [cursor.as_str().trim_end_matches('3'), "", "zz", "ée", &cursor[..32]] {
            let found = mine.read(List::Services, broken);
            assert!(found.is_err() || found.as_deref() != Ok("default/orders"), "{broken}");
        }
        assert!(mine.read(List::Events, &cursor).is_err());
    }
}
