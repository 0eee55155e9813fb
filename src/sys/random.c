/*
 * random.c - bytes that nobody can guess.
 */
#ifndef AIOL_SYS_RANDOM_C
#define AIOL_SYS_RANDOM_C

#include "sys/file.c"

#if AIOL_OS_POSIX

#if AIOL_OS_LINUX && defined(SYS_getrandom)
#define AIOL_RANDOM_MOST 256u /* as many are not interrupted */
static int aiol_random_call(void *buffer, size_t size) {
    return (int)AIOL_SYS(getrandom, syscall(SYS_getrandom, buffer, size, 0u));
}
#elif defined(__APPLE__) || defined(__OpenBSD__)
#define AIOL_RANDOM_MOST 256u
static int aiol_random_call(void *buffer, size_t size) {
    return AIOL_SYS(getentropy, getentropy(buffer, size)) == -1 ? -1 : (int)size;
}
#else
#define AIOL_RANDOM_MOST 256u
static int aiol_random_call(void *buffer, size_t size) {
    (void)buffer;
    (void)size;
    errno = ENOSYS;
    return -1;
}
#endif

/* Where the system has no call for it. */
static int aiol_random_read(unsigned char *p, size_t size) {
    int fd = aiol_file_open("/dev/urandom", O_RDONLY);
    int err = fd < 0 ? fd : 0;
    while (err == 0 && size != 0) {
        ssize_t n = AIOL_SYS(read, read(fd, p, size));
        if (n > 0) {
            p += n;
            size -= (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            err = n == 0 ? AIOLOOP_EIO : aiol_error_from_errno(errno);
        }
    }
    if (fd >= 0)
        close(fd);
    return err;
}

/* Fills the buffer, and waits if the system has just been started and has no randomness yet. 0 or a code. */
AIOLOOP_INTERNAL int aiol_random_fill(void *buffer, size_t size) {
    unsigned char *p = (unsigned char *)buffer;
    while (size != 0) {
        int n = aiol_random_call(p, aiol_min_size(size, AIOL_RANDOM_MOST));
        if (n < 0 && errno == ENOSYS)
            return aiol_random_read(p, size);
        if (n < 0 && errno != EINTR)
            return aiol_error_from_errno(errno);
        if (n > 0) {
            p += n;
            size -= (size_t)n;
        }
    }
    return 0;
}

#else

AIOLOOP_INTERNAL int aiol_random_fill(void *buffer, size_t size) {
    (void)buffer;
    (void)size;
    return AIOLOOP_ENOTAVAILABLE;
}

#endif

#endif
