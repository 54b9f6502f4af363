/* Preloaded into a process, counts what it does to the files below one folder, and kills it or lets the disk fail there.

   faults_arm(folder, log, at, error, lasting): at the operation number `at` (from 1; 0: never)
     error == 0   the process is killed; a write is half done by then
     error != 0   the operation fails with that errno, and with `lasting` so does every later one that needs room
   Each operation is appended to the descriptor `log` as "kind name\n" before it happens. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static char root[4096];
static size_t root_length;
static int log_to = -1, error_number, lasting, failing;
static long strike_at, count;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

void faults_arm(const char *folder, int log, long at, int error, int until_the_end) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    log_to = log, strike_at = at, error_number = error, lasting = until_the_end, count = 0, failing = 0;
}

static int inside(const char *path) {
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int named(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = syscall(SYS_readlink, link, path, 4095);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && inside(path);
}

/* 0: go on; 1: fail with error_number; 2: half of it first, then be killed. */
static int strikes(const char *kind, const char *path, int needs_room) {
    char line[4200];
    const char *slash = strrchr(path, '/');
    int length = snprintf(line, sizeof line, "%s %s\n", kind, slash ? slash + 1 : path);
    if (log_to >= 0) syscall(SYS_write, log_to, line, length);
    if (failing && needs_room) return 1;
    if (++count != strike_at) return 0;
    if (!error_number) return 2;
    failing = lasting;
    return 1;
}

static void die(void) { syscall(SYS_kill, getpid(), SIGKILL); }

#define PATH_CALL(kind, path, needs_room) \
    if (inside(path)) \
        switch (strikes(kind, path, needs_room)) { \
            case 1: errno = error_number; return -1; \
            case 2: die(); \
        }

#define WRITE_CALL(kind, half) \
    char path[4096]; \
    if (root_length && named(descriptor, path)) \
        switch (strikes(kind, path, 1)) { \
            case 1: errno = error_number; return -1; \
            case 2: half; die(); \
        }

ssize_t write(int descriptor, const void *bytes, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    WRITE_CALL("write", real(descriptor, bytes, size / 2))
    return real(descriptor, bytes, size);
}

ssize_t pwrite(int descriptor, const void *bytes, size_t size, off_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    WRITE_CALL("write", real(descriptor, bytes, size / 2, offset))
    return real(descriptor, bytes, size, offset);
}

ssize_t pwrite64(int descriptor, const void *bytes, size_t size, off64_t offset) {
    return pwrite(descriptor, bytes, size, offset);
}

int ftruncate(int descriptor, off_t size) {
    REAL(int, "ftruncate64", int, off_t);
    WRITE_CALL("resize", (void)0)
    return real(descriptor, size);
}

int ftruncate64(int descriptor, off64_t size) { return ftruncate(descriptor, size); }

int fsync(int descriptor) {
    REAL(int, "fsync", int);
    WRITE_CALL("sync", (void)0)
    return real(descriptor);
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    PATH_CALL("rename", to, 0)
    return real(from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    PATH_CALL("mkdir", path, 1)
    return real(path, mode);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (!error_number) PATH_CALL("remove", path, 0)
    return real(path);
}

static int opens(const char *path, int flags, mode_t mode) {
    REAL(int, "open64", const char *, int, ...);
    if (flags & O_CREAT) PATH_CALL("create", path, 1)
    return real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opens(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opens(path, flags, mode);
}
