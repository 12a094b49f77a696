/* A disk between the registry and the system, put in place by LD_PRELOAD: for tests only.
 *
 * Everything that the process does to files below POWERCUT_ROOT is done, and noted in the journal POWERCUT_JOURNAL in
 * the same order: creations, writes, truncations, renames, removals, and what was synced. `journal.rs` rebuilds from
 * it what a disk would hold that lost its power. The process kills itself after the operation that POWERCUT_AT names.
 * Nothing is really synced: that disk is the journal.
 *
 * POWERCUT_SWITCHES is a file of five 32-bit numbers, looked at before each operation, by which a test makes the disk
 * fail or slow: [errno of writes, errno of syncs, milliseconds that a sync takes, writes refused, syncs refused].
 * A sync that fails loses what was not synced before, as Linux does: nothing later brings it back. Whoever else has
 * the file open is told so once by his own next sync.
 *
 * It does not see mappings (only the `-shm` file of SQLite is mapped, and that is never trusted after a crash) nor
 * calls that the program does not make: fallocate, copy_file_range, O_DIRECT. The test compares the files with what
 * the journal says of them, byte by byte, so that nothing can slip by. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, KNOWN, WRITE, TRUNCATE, SYNC, SYNC_DIR, RENAME, UNLINK, MKDIR, SYNC_FAILED };
enum { FDS = 1 << 16, FILES = 1 << 16 };
enum { SW_WRITE_ERRNO, SW_SYNC_ERRNO, SW_SYNC_MS, SW_WRITES_REFUSED, SW_SYNCS_REFUSED, SWITCHES };

struct record {
    uint32_t kind, file;
    uint64_t number; /* offset, size, or the records before a sync began */
    uint32_t bytes, path; /* of data, of path, which follow */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int journal = -1;
static uint64_t records;
static volatile uint32_t *switches;

/* What an open descriptor stands for: a file's number, or a directory. */
static struct {
    uint32_t file;
    char *directory;
    int owes_error;
} open_files[FDS];
static struct {
    ino_t inode;
    int is_wal, is_database;
} files[FILES];
static uint32_t file_count;

/* The cut: after how many operations of which kind. */
static char cut_kind[16];
static long cut_after = -1;
static uint64_t delay_state = 88172645463325252ull;
static uint64_t delay_max_us;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_mkdir)(const char *, mode_t);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);

static void fail(const char *what) {
    char line[256];
    int length = snprintf(line, sizeof line, "powercut shim: %s: %s\n", what, strerror(errno));
    syscall(SYS_write, 2, line, length);
    _exit(99);
}

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) fail(name);
    return found;
}

__attribute__((constructor)) static void start(void) {
    real_open = next("open");
    real_openat = next("openat");
    real_close = next("close");
    real_write = next("write");
    real_writev = next("writev");
    real_pwrite = next("pwrite");
    real_ftruncate = next("ftruncate");
    real_fsync = next("fsync");
    real_rename = next("rename");
    real_unlink = next("unlink");
    real_unlinkat = next("unlinkat");
    real_mkdir = next("mkdir");
    real_mmap = next("mmap");
    const char *given = getenv("POWERCUT_ROOT");
    if (!given || !realpath(given, root)) fail("POWERCUT_ROOT");
    root_length = strlen(root);
    given = getenv("POWERCUT_JOURNAL");
    if (given) {
        journal = real_open(given, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (journal < 0) fail("POWERCUT_JOURNAL");
    }
    given = getenv("POWERCUT_AT");
    if (given && sscanf(given, "%15[a-z]:%ld", cut_kind, &cut_after) != 2) fail("POWERCUT_AT");
    given = getenv("POWERCUT_DELAY_US");
    if (given) delay_max_us = strtoull(given, NULL, 10);
    given = getenv("POWERCUT_SWITCHES");
    if (given) {
        int fd = real_open(given, O_RDWR | O_CLOEXEC);
        if (fd < 0) fail("POWERCUT_SWITCHES");
        void *shared = real_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared == MAP_FAILED) fail("POWERCUT_SWITCHES");
        switches = shared;
        real_close(fd);
    }
}

/* The path below the root, or none. What is not absolute is not ours: the tests give absolute paths. */
static const char *ours(const char *path) {
    if (!root_length || !path || strncmp(path, root, root_length) != 0) return NULL;
    if (path[root_length] == 0) return "";
    return path[root_length] == '/' ? path + root_length + 1 : NULL;
}

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), tail = strlen(end);
    return length >= tail && strcmp(path + length - tail, end) == 0;
}

static void append(const void *bytes, size_t length) {
    const char *from = bytes;
    while (length > 0) {
        ssize_t done = syscall(SYS_write, journal, from, length);
        if (done <= 0) fail("the journal can't be written");
        from += done;
        length -= done;
    }
}

/* Notes one operation. The lock is held. */
static void note(uint32_t kind, uint32_t file, uint64_t number, const void *bytes, size_t length, const char *path) {
    records++;
    if (journal < 0) return;
    struct record head = {kind, file, number, length, path ? strlen(path) : 0};
    append(&head, sizeof head);
    append(bytes, length);
    if (path) append(path, head.path);
}

/* Ends the process if this operation is the one; the lock is held, and never let go of then. */
static void cut(const char *kind) {
    if (cut_after < 0 || (strcmp(cut_kind, "any") != 0 && strcmp(cut_kind, kind) != 0)) return;
    if (--cut_after > 0) return;
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

static uint32_t file_of(int fd) { return fd >= 0 && fd < FDS ? open_files[fd].file : 0; }

static int refused(uint32_t file, int which, int counter) {
    (void)file;
    if (!switches || !switches[which]) return 0;
    __atomic_fetch_add(&switches[counter], 1, __ATOMIC_SEQ_CST);
    errno = switches[which];
    return 1;
}

/* A disk that can be read only: nothing is opened for writing or made. */
static int is_read_only(int flags) {
    if (!switches || switches[SW_WRITE_ERRNO] != EROFS || !(flags & (O_WRONLY | O_RDWR | O_CREAT))) return 0;
    errno = EROFS;
    return 1;
}

static uint32_t number_of(ino_t inode, const char *path, int created) {
    for (uint32_t n = file_count; n > 0 && !created; n--)
        if (files[n].inode == inode) return n;
    if (file_count + 1 >= FILES) fail("too many files");
    files[++file_count].inode = inode;
    files[file_count].is_wal = ends_with(path, "-wal");
    files[file_count].is_database = ends_with(path, ".db");
    note(created ? CREATE : KNOWN, file_count, 0, NULL, 0, path);
    return file_count;
}

static int opened(const char *path, const char *below, int flags, mode_t mode, int at) {
    if (!below) return at == AT_FDCWD ? real_open(path, flags, mode) : real_openat(at, path, flags, mode);
    if (is_read_only(flags)) return -1;
    pthread_mutex_lock(&lock);
    struct stat found;
    int existed = stat(path, &found) == 0;
    int fd = real_open(path, flags, mode);
    int error = errno;
    if (fd >= FDS) fail("too many descriptors");
    if (fd >= 0 && fstat(fd, &found) == 0) {
        open_files[fd].owes_error = 0;
        if (S_ISDIR(found.st_mode)) {
            open_files[fd].directory = strdup(below);
        } else if (!ends_with(below, "-shm")) {
            open_files[fd].file = number_of(found.st_ino, below, !existed);
            if (existed && (flags & O_TRUNC)) note(TRUNCATE, open_files[fd].file, 0, NULL, 0, NULL);
            cut(existed ? "none" : "create");
        }
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE(flags, mode)                                          \
    mode_t mode = 0;                                               \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                         \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode = va_arg(rest, mode_t);                               \
        va_end(rest);                                              \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return opened(path, ours(path), flags, mode, AT_FDCWD); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return opened(path, ours(path), flags | O_LARGEFILE, mode, AT_FDCWD); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(path, ours(path), flags, mode, at); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, mode) return opened(path, ours(path), flags | O_LARGEFILE, mode, at); }

int close(int fd) {
    if (fd >= 0 && fd < FDS && (open_files[fd].file || open_files[fd].directory)) {
        pthread_mutex_lock(&lock);
        open_files[fd].file = 0;
        free(open_files[fd].directory);
        open_files[fd].directory = NULL;
        int result = real_close(fd);
        pthread_mutex_unlock(&lock);
        return result;
    }
    return real_close(fd);
}

/* A write at `offset` that was done, or the reason why it was not. The lock is held. */
static void wrote(uint32_t file, const void *bytes, ssize_t done, off_t offset) {
    if (done <= 0) return;
    note(WRITE, file, offset, bytes, done, NULL);
    if (files[file].is_wal && offset == 0) cut("restart");
    else cut(files[file].is_wal ? "wal" : files[file].is_database ? "database" : "other");
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    uint32_t file = file_of(fd);
    if (!file) return real_pwrite(fd, bytes, length, offset);
    if (refused(file, SW_WRITE_ERRNO, SW_WRITES_REFUSED)) return -1;
    pthread_mutex_lock(&lock);
    ssize_t done = real_pwrite(fd, bytes, length, offset);
    int error = errno;
    wrote(file, bytes, done, offset);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) { return pwrite(fd, bytes, length, offset); }

ssize_t write(int fd, const void *bytes, size_t length) {
    uint32_t file = file_of(fd);
    if (!file) return real_write(fd, bytes, length);
    if (refused(file, SW_WRITE_ERRNO, SW_WRITES_REFUSED)) return -1;
    pthread_mutex_lock(&lock);
    int appends = fcntl(fd, F_GETFL) & O_APPEND;
    off_t offset = appends ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    ssize_t done = real_write(fd, bytes, length);
    int error = errno;
    wrote(file, bytes, done, offset);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!file_of(fd)) return real_writev(fd, parts, count);
    /* A short write is allowed: the caller goes on with the rest. */
    return count > 0 ? write(fd, parts[0].iov_base, parts[0].iov_len) : 0;
}

int ftruncate(int fd, off_t size) {
    uint32_t file = file_of(fd);
    if (!file) return real_ftruncate(fd, size);
    if (refused(file, SW_WRITE_ERRNO, SW_WRITES_REFUSED)) return -1;
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(fd, size);
    int error = errno;
    if (result == 0) {
        note(TRUNCATE, file, size, NULL, 0, NULL);
        cut("truncate");
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

static void wait_for_the_disk(void) {
    uint64_t us = 0;
    if (delay_max_us) {
        pthread_mutex_lock(&lock);
        delay_state ^= delay_state << 13, delay_state ^= delay_state >> 7, delay_state ^= delay_state << 17;
        us = delay_state % delay_max_us;
        pthread_mutex_unlock(&lock);
    }
    if (switches) us += 1000ull * switches[SW_SYNC_MS];
    if (us) usleep(us);
}

int fsync(int fd) {
    uint32_t file = file_of(fd);
    const char *directory = fd >= 0 && fd < FDS ? open_files[fd].directory : NULL;
    if (!file && !directory) return real_fsync(fd);
    pthread_mutex_lock(&lock);
    cut("sync");
    uint64_t began = records;
    int owes = open_files[fd].owes_error;
    open_files[fd].owes_error = 0;
    pthread_mutex_unlock(&lock);
    /* Others may write meanwhile, and what they write is not part of this sync. */
    wait_for_the_disk();
    if (refused(file, SW_SYNC_ERRNO, SW_SYNCS_REFUSED)) {
        int error = errno;
        pthread_mutex_lock(&lock);
        for (int other = 0; file && other < FDS; other++)
            if (other != fd && open_files[other].file == file) open_files[other].owes_error = error;
        if (file) note(SYNC_FAILED, file, began, NULL, 0, NULL);
        pthread_mutex_unlock(&lock);
        errno = error;
        return -1;
    }
    pthread_mutex_lock(&lock);
    if (file) note(SYNC, file, began, NULL, 0, NULL);
    else note(SYNC_DIR, 0, began, NULL, 0, directory);
    pthread_mutex_unlock(&lock);
    if (owes) {
        errno = owes;
        return -1;
    }
    return 0;
}
int fdatasync(int fd) { return fsync(fd); }

int rename(const char *from, const char *to) {
    const char *old = ours(from), *new = ours(to);
    if (!old || !new) return real_rename(from, to);
    if (is_read_only(O_CREAT)) return -1;
    pthread_mutex_lock(&lock);
    int result = real_rename(from, to);
    int error = errno;
    if (result == 0) {
        note(RENAME, 0, 0, new, strlen(new), old);
        cut("rename");
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int unlink(const char *path) {
    const char *below = ours(path);
    if (!below || ends_with(below, "-shm")) return real_unlink(path);
    if (is_read_only(O_CREAT)) return -1;
    pthread_mutex_lock(&lock);
    int result = real_unlink(path);
    int error = errno;
    if (result == 0) {
        note(UNLINK, 0, 0, NULL, 0, below);
        cut("unlink");
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}
int unlinkat(int at, const char *path, int flags) {
    if (ours(path) && !(flags & AT_REMOVEDIR)) return unlink(path);
    return real_unlinkat(at, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    const char *below = ours(path);
    if (!below) return real_mkdir(path, mode);
    if (is_read_only(O_CREAT)) return -1;
    pthread_mutex_lock(&lock);
    int result = real_mkdir(path, mode);
    int error = errno;
    if (result == 0) {
        note(MKDIR, 0, 0, NULL, 0, below);
        cut("create");
    }
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

/* A file that is written through a mapping would be written behind our back. */
void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (file_of(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
        errno = EACCES;
        fail("a file of the disk is mapped for writing");
    }
    /* Before `start` has run: the loader's and the allocator's own. */
    if (!real_mmap) return (void *)syscall(SYS_mmap, address, length, protection, flags, fd, offset);
    return real_mmap(address, length, protection, flags, fd, offset);
}
void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap(address, length, protection, flags, fd, offset);
}
