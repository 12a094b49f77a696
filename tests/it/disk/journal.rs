//! What a disk holds after its power was cut: the journal of the shim, read, and the files that follow from it.
//!
//! ```text
//!   write 1   write 2   sync begins   write 3   sync ends   write 4   CUT
//!   ╰── on the disk ──╯               ╰─ perhaps: none, all, some, torn ─╯
//! ```
//!
//! Bytes count as stored when the sync of their file, begun after them, has returned; names when that of their
//! directory has. A sync that failed takes what it should have stored: a later one does not bring it back, as on
//! Linux. All of this is stricter than the usual file systems, which keep names in order and with their files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use fastrand::Rng;

/// Disks write a sector whole or not at all; `SQLite` assumes no more, and checks sums over what is larger.
const SECTOR: usize = 512;

/// Bytes of a record's head: see `struct record` of the shim.
const HEAD: usize = 24;

/// One operation on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A new file under a name that was free.
    Create {
        file: u32,
        path: String,
    },
    /// A file that was there is opened; says which number it has.
    Known {
        file: u32,
        path: String,
    },
    Write {
        file: u32,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        file: u32,
        size: usize,
    },
    /// A sync of a file has returned that began after so many operations.
    Sync {
        file: u32,
        began: usize,
    },
    /// The same of a directory.
    SyncDir {
        path: String,
        began: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    MakeDir {
        path: String,
    },
    /// A sync has failed, and with it all that was waiting for it.
    SyncFailed {
        file: u32,
        began: usize,
    },
}

/// Reads a journal. One that ends within a record was cut there.
pub(super) fn read(path: &Path) -> Vec<Op> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut ops = Vec::new();
    while let Some((head, body)) = rest.split_at_checked(HEAD) {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let number = u64::from_le_bytes(head[8..16].try_into().unwrap());
        let (data, text) = (word(16) as usize, word(20) as usize);
        let Some((data, body)) = body.split_at_checked(data) else { break };
        let Some((text, body)) = body.split_at_checked(text) else { break };
        rest = body;
        let number = usize::try_from(number).unwrap();
        let path = String::from_utf8(text.to_vec()).unwrap();
        let file = word(4);
        ops.push(match word(0) {
            1 => Op::Create { file, path },
            2 => Op::Known { file, path },
            3 => Op::Write { file, offset: number, bytes: data.to_vec() },
            4 => Op::Truncate { file, size: number },
            5 => Op::Sync { file, began: number },
            6 => Op::SyncDir { path, began: number },
            7 => Op::Rename { from: path, to: String::from_utf8(data.to_vec()).unwrap() },
            8 => Op::Unlink { path },
            9 => Op::MakeDir { path },
            10 => Op::SyncFailed { file, began: number },
            other => panic!("the journal has a record of kind {other}"),
        });
    }
    ops
}

/// What becomes of the operations that no sync has stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// They are all gone.
    Gone,
    /// They are all there.
    There,
    /// Those up to a random one are there; that one is torn.
    Prefix,
    /// Each one is there or not.
    Subset,
    /// Each sector of each one is there or not.
    Torn,
}

impl Fate {
    pub(super) const ALL: [Self; 5] =
        [Self::Gone, Self::There, Self::Prefix, Self::Subset, Self::Torn];
}

/// The files of a disk by their paths; a directory has no content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image(pub(super) BTreeMap<String, Option<Vec<u8>>>);

impl Image {
    /// What is below `root`, without SQLite's shared memory, which no crash outlasts.
    pub(super) fn load(root: &Path) -> Self {
        let mut found = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() {
                    found.insert(name, None);
                    folders.push(path);
                } else if !name.ends_with("-shm") {
                    found.insert(name, Some(std::fs::read(path).unwrap()));
                }
            }
        }
        Self(found)
    }

    /// Puts it below `root`, which is empty. Beside each database lies shared memory as a cut may leave it: garbage.
    pub(super) fn store(&self, root: &Path) {
        for (name, content) in &self.0 {
            let path = root.join(name);
            match content {
                None => std::fs::create_dir(path).unwrap(),
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
            }
            if name.ends_with(".db") {
                std::fs::write(root.join(format!("{name}-shm")), [0xA5; 32_768]).unwrap();
            }
        }
    }
}

/// A file apart from its names.
type Inode = usize;

/// A rebuilding: the journal sorted by files.
struct Disk<'a> {
    ops: &'a [Op],
    /// The name space before the run.
    names: BTreeMap<String, Option<Inode>>,
    /// The content of each file before the run.
    contents: Vec<Vec<u8>>,
    /// The files that the operations create, and those that they work on.
    inodes: HashMap<usize, Inode>,
    /// Whether each operation is on the disk for certain.
    stored: Vec<bool>,
}

impl<'a> Disk<'a> {
    fn new(before: &Image, ops: &'a [Op]) -> Self {
        let mut contents = Vec::new();
        let mut names = BTreeMap::new();
        for (name, content) in &before.0 {
            let inode = content.as_ref().map(|bytes| {
                contents.push(bytes.clone());
                contents.len() - 1
            });
            names.insert(name.clone(), inode);
        }
        let mut disk =
            Self { ops, names, contents, inodes: HashMap::new(), stored: vec![false; ops.len()] };
        disk.name_files();
        disk.mark_stored();
        disk
    }

    /// Follows the names through the run: which file each operation means.
    fn name_files(&mut self) {
        let mut names = self.names.clone();
        let mut numbers: HashMap<u32, Inode> = HashMap::new();
        for (index, op) in self.ops.iter().enumerate() {
            match op {
                Op::Create { file, .. } => {
                    self.contents.push(Vec::new());
                    numbers.insert(*file, self.contents.len() - 1);
                    self.inodes.insert(index, self.contents.len() - 1);
                }
                Op::Known { file, path } => {
                    numbers.insert(*file, names[path].unwrap());
                }
                Op::Write { file, .. }
                | Op::Truncate { file, .. }
                | Op::Sync { file, .. }
                | Op::SyncFailed { file, .. } => {
                    self.inodes.insert(index, numbers[file]);
                }
                Op::SyncDir { .. } | Op::Rename { .. } | Op::Unlink { .. } | Op::MakeDir { .. } => {
                }
            }
            rename(&mut names, op, self.inodes.get(&index).copied());
        }
    }

    fn mark_stored(&mut self) {
        // What waits for a sync, by what has to be synced.
        let mut bytes: HashMap<Inode, Vec<usize>> = HashMap::new();
        let mut names: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, op) in self.ops.iter().enumerate() {
            match op {
                Op::Write { .. } | Op::Truncate { .. } => {
                    bytes.entry(self.inodes[&index]).or_default().push(index);
                }
                Op::Sync { began, .. } => {
                    let waiting = bytes.entry(self.inodes[&index]).or_default();
                    let later = waiting.split_off(waiting.partition_point(|op| op < began));
                    for stored in std::mem::replace(waiting, later) {
                        self.stored[stored] = true;
                    }
                }
                // What waited waits for ever.
                Op::SyncFailed { .. } => bytes.entry(self.inodes[&index]).or_default().clear(),
                Op::SyncDir { path, began } => {
                    let waiting = names.entry(path).or_default();
                    let later = waiting.split_off(waiting.partition_point(|op| op < began));
                    for stored in std::mem::replace(waiting, later) {
                        self.stored[stored] = true;
                    }
                }
                Op::Create { .. } | Op::Rename { .. } | Op::Unlink { .. } | Op::MakeDir { .. } => {
                    names.entry(parent_of(op).unwrap_or_default()).or_default().push(index);
                }
                Op::Known { .. } => {}
            }
        }
    }

    /// The sectors that are there of each operation; none of one that is not.
    fn kept(&self, fate: Fate, random: &mut Rng) -> Vec<Kept> {
        let last = random.usize(0..=self.ops.len());
        let share = random.f64();
        let kept = |(index, stored): (usize, &bool)| match fate {
            _ if *stored => Kept::Whole,
            Fate::Gone => Kept::Nothing,
            Fate::There => Kept::Whole,
            Fate::Prefix if index < last => Kept::Whole,
            Fate::Prefix if index == last => Kept::Sectors(random.f64()),
            Fate::Prefix => Kept::Nothing,
            Fate::Subset if random.f64() < share => Kept::Whole,
            Fate::Subset => Kept::Nothing,
            Fate::Torn => Kept::Sectors(share),
        };
        self.stored.iter().enumerate().map(kept).collect()
    }

    fn image(mut self, fate: Fate, random: &mut Rng) -> Image {
        let kept = self.kept(fate, random);
        for (index, (op, kept)) in self.ops.iter().zip(kept).enumerate() {
            let inode = self.inodes.get(&index).copied();
            match (op, kept) {
                (_, Kept::Nothing) => {}
                (Op::Write { offset, bytes, .. }, kept) => {
                    let content = &mut self.contents[inode.unwrap()];
                    for (at, sector) in sectors(*offset, bytes) {
                        if kept.keeps(random) {
                            put(content, at, sector);
                        }
                    }
                }
                (Op::Truncate { size, .. }, kept) => {
                    if kept.keeps(random) {
                        self.contents[inode.unwrap()].resize(*size, 0);
                    }
                }
                (op, kept) => {
                    if kept.keeps(random) {
                        rename(&mut self.names, op, inode);
                    }
                }
            }
        }
        let mut image = Image::default();
        for (name, inode) in &self.names {
            // Parents come before what is in them; without its directory a file can't be reached.
            let folder = folder_of(name);
            if folder.is_empty() || image.0.contains_key(folder) {
                image.0.insert(name.clone(), inode.map(|inode| self.contents[inode].clone()));
            }
        }
        image
    }
}

/// What is there of an operation.
#[derive(Clone, Copy)]
enum Kept {
    Nothing,
    Whole,
    /// Each sector with this probability.
    Sectors(f64),
}

impl Kept {
    fn keeps(self, random: &mut Rng) -> bool {
        match self {
            Self::Nothing => false,
            Self::Whole => true,
            Self::Sectors(share) => random.f64() < share,
        }
    }
}

/// A write in pieces that end where sectors end.
fn sectors(offset: usize, bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut pieces = Vec::new();
    let (mut at, mut rest) = (offset, bytes);
    while !rest.is_empty() {
        let length = (SECTOR - at % SECTOR).min(rest.len());
        let (piece, after) = rest.split_at(length);
        pieces.push((at, piece));
        (at, rest) = (at + length, after);
    }
    pieces
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The directory that has to be synced for a name.
fn parent_of(op: &Op) -> Option<&str> {
    match op {
        Op::Create { path, .. } | Op::Unlink { path } | Op::MakeDir { path } => {
            Some(folder_of(path))
        }
        Op::Rename { to, .. } => Some(folder_of(to)),
        _ => None,
    }
}

/// Does to the names what the operation does to them; to what is not there, nothing.
fn rename(names: &mut BTreeMap<String, Option<Inode>>, op: &Op, inode: Option<Inode>) {
    match op {
        Op::Create { path, .. } => {
            names.insert(path.clone(), inode);
        }
        Op::MakeDir { path } => {
            names.insert(path.clone(), None);
        }
        Op::Unlink { path } => {
            names.remove(path);
        }
        Op::Rename { from, to } => {
            if let Some(moved) = names.remove(from) {
                names.insert(to.clone(), moved);
            }
        }
        _ => {}
    }
}

/// What a disk that held `before` holds after these operations and a cut.
pub(super) fn rebuild(before: &Image, ops: &[Op], fate: Fate, random: &mut Rng) -> Image {
    Disk::new(before, ops).image(fate, random)
}

/// The same for a disk that says it has synced, and has not.
pub(super) fn rebuild_liar(before: &Image, ops: &[Op], fate: Fate, random: &mut Rng) -> Image {
    let mut disk = Disk::new(before, ops);
    disk.stored.fill(false);
    disk.image(fate, random)
}
