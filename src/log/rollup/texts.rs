//! Texts by number, for as long as a period is gathered: a text is looked at once for each block, not for each event.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::log::columns::Columns;

/// The texts of a period, by number: 1 is the first, 0 is none.
#[derive(Debug, Default)]
pub(super) struct Texts {
    ids: HashMap<Arc<str>, u32, RandomState>,
    all: Vec<Arc<str>>,
    /// For each position of the block that is being taken, the number here, or one that none has.
    known: Vec<u32>,
}

/// No text has this number.
pub(super) const UNKNOWN: u32 = u32::MAX;

impl Texts {
    /// Forgets what the positions of the last block meant.
    pub(super) fn of_block(&mut self, columns: &Columns<'_>) {
        self.known.clear();
        self.known.resize(columns.texts(), UNKNOWN);
    }

    /// The number of the text at a position of the block.
    pub(super) fn at(&mut self, columns: &Columns<'_>, position: u32) -> u32 {
        match self.known_at(columns, position) {
            UNKNOWN => {
                let id = self.id(text_at(columns, position));
                self.note(position, id);
                id
            }
            id => id,
        }
    }

    /// The same, if it has a number already.
    pub(super) fn known_at(&mut self, columns: &Columns<'_>, position: u32) -> u32 {
        match self.known.get(position as usize).copied().unwrap_or(UNKNOWN) {
            UNKNOWN => {
                let id = self.known(text_at(columns, position));
                self.note(position, id);
                id
            }
            id => id,
        }
    }

    fn note(&mut self, position: u32, id: u32) {
        if let Some(known) = self.known.get_mut(position as usize) {
            *known = id;
        }
    }

    pub(super) fn known(&self, text: &str) -> u32 {
        match text {
            "" => 0,
            text => self.ids.get(text).copied().unwrap_or(UNKNOWN),
        }
    }

    pub(super) fn id(&mut self, text: &str) -> u32 {
        match self.known(text) {
            UNKNOWN => {
                let text: Arc<str> = text.into();
                self.all.push(Arc::clone(&text));
                let id = u32::try_from(self.all.len()).unwrap_or(UNKNOWN - 1);
                self.ids.insert(text, id);
                id
            }
            id => id,
        }
    }

    pub(super) fn text(&self, id: u32) -> &str {
        let place = (id as usize).checked_sub(1);
        place.and_then(|place| self.all.get(place)).map_or("", |text| text)
    }

    /// All texts as a JSON array, each at the place of its number; 0 is null.
    pub(super) fn json(&self) -> String {
        let mut names = "[null".to_owned();
        for text in &self.all {
            names.push(',');
            names.push_str(&serde_json::to_string(text).unwrap_or_default());
        }
        names.push(']');
        names
    }

    /// Begins anew, and gives back the room of the texts.
    pub(super) fn emptied(self) -> Self {
        Self { known: self.known, ..Self::default() }
    }

    /// Begins anew in the same room.
    pub(super) fn clear(&mut self) {
        self.ids.clear();
        self.all.clear();
        self.known.fill(UNKNOWN);
    }
}

pub(super) fn text_at<'c>(columns: &'c Columns<'_>, position: u32) -> &'c str {
    columns.text(position as usize).unwrap_or_default()
}
