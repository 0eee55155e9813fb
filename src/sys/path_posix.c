/*
 * path_posix.c - the files of Unix sockets.
 */
#ifndef AIOL_SYS_PATH_POSIX_C
#define AIOL_SYS_PATH_POSIX_C

#include "sys/sys.h"

static void aiol_path_copy(char *to, const char *path, size_t size) {
    size = aiol_min_size(size, 107);
    memcpy(to, path, size);
    to[size] = '\0';
}

AIOLOOP_INTERNAL int aiol_path_identify(const char *path, size_t size, aiol_path_identity *identity) {
    char name[108];
    struct stat st;
    aiol_path_copy(name, path, size);
    if (AIOL_SYS(stat, stat(name, &st)) == -1)
        return aiol_error_from_errno(errno);
    identity->device = (uint64_t)st.st_dev;
    identity->inode = (uint64_t)st.st_ino;
    identity->is_socket = S_ISSOCK(st.st_mode) != 0;
    return 0;
}

AIOLOOP_INTERNAL int aiol_path_remove(const char *path, size_t size) {
    char name[108];
    aiol_path_copy(name, path, size);
    if (AIOL_SYS(unlink, unlink(name)) == -1)
        return aiol_error_from_errno(errno);
    return 0;
}

#endif
