/* Preloaded into a composer, ends it as kill -9 does, at a chosen moment of a chosen write to the
 * log of its queue.
 *
 * DIE_RECORD  tag of a record, the first byte of its borsh
 * DIE_COUNT   which of the groups with such a record is meant, from 1
 * DIE_MOMENT  before, half, written, synced or renamed
 * DIE_WISH    a file that is removed first: what was wished for has come
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a file begins with; bytes before the records of a group, and before a record. */
static const char MAGIC[8] = "cpqueue2";
enum { HEAD = 12, LENGTH = 4 };

/* Whether the last group that was written is the one. Only the log's own thread writes groups. */
static int chosen;

static const char *wish(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int is_at(const char *moment) {
    return chosen && strcmp(wish("DIE_MOMENT"), moment) == 0;
}

static void die_at(const char *moment) {
    if (!is_at(moment)) return;
    unlink(wish("DIE_WISH"));
    kill(getpid(), SIGKILL);
}

static int is_log(int file) {
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    const char *name = strrchr(path, '/');
    return name && (strcmp(name, "/queue.log") == 0 || strcmp(name, "/queue.new") == 0);
}

static int is_wanted(const unsigned char *group, size_t length) {
    uint32_t record;
    size_t begin = HEAD;
    if (length > sizeof MAGIC && memcmp(group, MAGIC, sizeof MAGIC) == 0) begin += sizeof MAGIC;
    for (size_t at = begin; at + LENGTH < length; at += LENGTH + record) {
        memcpy(&record, group + at, sizeof record);
        if (group[at + LENGTH] == atoi(wish("DIE_RECORD"))) return 1;
    }
    return 0;
}

ssize_t write(int file, const void *bytes, size_t length) {
    static int groups;
    ssize_t (*next)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    if (!is_log(file)) return next(file, bytes, length);
    chosen = is_wanted(bytes, length) && ++groups == atoi(wish("DIE_COUNT"));
    die_at("before");
    if (is_at("half")) next(file, bytes, length / 2);
    die_at("half");
    ssize_t written = next(file, bytes, length);
    die_at("written");
    return written;
}

static int synced(int file, int result) {
    if (is_log(file)) die_at("synced");
    return result;
}

int fsync(int file) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    return synced(file, next(file));
}

int fdatasync(int file) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return synced(file, next(file));
}

int rename(const char *from, const char *to) {
    int (*next)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    int result = next(from, to);
    if (strstr(to, "/queue.log")) die_at("renamed");
    return result;
}
