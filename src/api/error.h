/*
 * error.h - one signed number says everything.                          (asyncio: exceptions.py)
 *
 * A function that can fail returns an int (or int64_t): 0 or above is success, below 0 is one of
 * these codes. The system's errors have Linux's numbers, negated, on every system, so a program can
 * compare and log them without asking where it runs. The library's own start at -20001, the
 * resolver's at -21001, TLS's at -22001. What more there
 * is to say (which address, which argument) is an aioloop_error: see aioloop_last_error and
 * aioloop_future_error.
 */
#ifndef AIOLOOP_API_ERROR_H
#define AIOLOOP_API_ERROR_H

#include "api/config.h"

/* X(name, code, text). The system's errors; AIOLOOP_E<name> stands for errno E<name>. */
#define AIOLOOP_SYSTEM_ERRORS(X)                                                                   \
    X(EPERM, -1, "operation not permitted")                                                        \
    X(ENOENT, -2, "no such file or directory")                                                     \
    X(ESRCH, -3, "no such process")                                                                \
    X(EINTR, -4, "interrupted system call")                                                        \
    X(EIO, -5, "input/output error")                                                               \
    X(ENXIO, -6, "no such device or address")                                                      \
    X(E2BIG, -7, "argument list too long")                                                         \
    X(ENOEXEC, -8, "exec format error")                                                            \
    X(EBADF, -9, "bad file descriptor")                                                            \
    X(ECHILD, -10, "no child processes")                                                           \
    X(EAGAIN, -11, "resource temporarily unavailable")                                             \
    X(ENOMEM, -12, "out of memory")                                                                \
    X(EACCES, -13, "permission denied")                                                            \
    X(EFAULT, -14, "bad address")                                                                  \
    X(EBUSY, -16, "device or resource busy")                                                       \
    X(EEXIST, -17, "file exists")                                                                  \
    X(EXDEV, -18, "cross-device link")                                                             \
    X(ENODEV, -19, "no such device")                                                               \
    X(ENOTDIR, -20, "not a directory")                                                             \
    X(EISDIR, -21, "is a directory")                                                               \
    X(EINVAL, -22, "invalid argument")                                                             \
    X(ENFILE, -23, "too many open files in the system")                                            \
    X(EMFILE, -24, "too many open files")                                                          \
    X(ENOTTY, -25, "not a terminal")                                                               \
    X(EFBIG, -27, "file too large")                                                                \
    X(ENOSPC, -28, "no space left on device")                                                      \
    X(ESPIPE, -29, "illegal seek")                                                                 \
    X(EROFS, -30, "read-only file system")                                                         \
    X(EMLINK, -31, "too many links")                                                               \
    X(EPIPE, -32, "broken pipe")                                                                   \
    X(EDOM, -33, "argument out of domain")                                                         \
    X(ERANGE, -34, "result out of range")                                                          \
    X(EDEADLK, -35, "resource deadlock avoided")                                                   \
    X(ENAMETOOLONG, -36, "name too long")                                                          \
    X(ENOSYS, -38, "function not implemented")                                                     \
    X(ENOTEMPTY, -39, "directory not empty")                                                       \
    X(ELOOP, -40, "too many symbolic links")                                                       \
    X(EOVERFLOW, -75, "value too large")                                                           \
    X(EILSEQ, -84, "illegal byte sequence")                                                        \
    X(ENOTSOCK, -88, "not a socket")                                                               \
    X(EDESTADDRREQ, -89, "destination address required")                                           \
    X(EMSGSIZE, -90, "message too long")                                                           \
    X(EPROTOTYPE, -91, "protocol wrong type for socket")                                           \
    X(ENOPROTOOPT, -92, "protocol not available")                                                  \
    X(EPROTONOSUPPORT, -93, "protocol not supported")                                              \
    X(EOPNOTSUPP, -95, "operation not supported")                                                  \
    X(EAFNOSUPPORT, -97, "address family not supported")                                           \
    X(EADDRINUSE, -98, "address already in use")                                                   \
    X(EADDRNOTAVAIL, -99, "cannot assign requested address")                                       \
    X(ENETDOWN, -100, "network is down")                                                           \
    X(ENETUNREACH, -101, "network is unreachable")                                                 \
    X(ENETRESET, -102, "network dropped connection on reset")                                      \
    X(ECONNABORTED, -103, "connection aborted")                                                    \
    X(ECONNRESET, -104, "connection reset by peer")                                                \
    X(ENOBUFS, -105, "no buffer space available")                                                  \
    X(EISCONN, -106, "socket is already connected")                                                \
    X(ENOTCONN, -107, "socket is not connected")                                                   \
    X(ECONNREFUSED, -111, "connection refused")                                                    \
    X(EHOSTUNREACH, -113, "no route to host")                                                      \
    X(EALREADY, -114, "operation already in progress")                                             \
    X(EINPROGRESS, -115, "operation now in progress")

/* X(name, code, text). The library's own. */
#define AIOLOOP_LIBRARY_ERRORS(X)                                                                  \
    X(ECANCELED, -20001, "the operation was cancelled")                                            \
    X(ETIMEDOUT, -20002, "the time-out passed")                                                    \
    X(EINVALIDSTATE, -20003, "the future is not in the state this needs")                          \
    X(EMISUSE, -20004, "the call is not allowed here")                                             \
    X(ECLOSED, -20005, "the loop is closed")                                                       \
    X(ENOTAVAILABLE, -20006, "not available in this build or on this back end")                    \
    X(EFATAL, -20007, "a callback ended the run")                                                  \
    X(ELOOKUP, -20008, "no address was found for the name")                                        \
    X(ESTOPITERATION, -20009, "there is nothing more to come")                                     \
    X(ETASKGROUP, -20010, "tasks of a group failed")                                               \
    X(EINCOMPLETE, -20011, "the stream ended before the number of bytes was there")                \
    X(EOVERRUN, -20012, "the separator was not found within the limit")                            \
    X(EBROKENBARRIER, -20013, "the barrier is broken")                                             \
    X(EQUEUEFULL, -20014, "the queue is full")                                                     \
    X(EQUEUEEMPTY, -20015, "the queue is empty")                                                   \
    X(EQUEUESHUTDOWN, -20016, "the queue was shut down")                                           \
    X(EGENERATOREXIT, -20017, "the generator is being closed")                                     \
    X(EINTERRUPTED, -20018, "the program was interrupted")                                         \
    X(EBROKENPROCESS, -20019, "a process of the pool has died")

/* X(name, code, text). The resolver's, of looking up names. */
#define AIOLOOP_RESOLVER_ERRORS(X)                                                                 \
    X(EAI_ADDRFAMILY, -21001, "the host has no address of this family")                            \
    X(EAI_AGAIN, -21002, "the name server could not be reached for now")                           \
    X(EAI_BADFLAGS, -21003, "invalid flags for a look-up")                                         \
    X(EAI_FAIL, -21004, "the look-up failed for good")                                             \
    X(EAI_FAMILY, -21005, "address family not supported by the look-up")                           \
    X(EAI_NODATA, -21006, "the host has no address")                                               \
    X(EAI_NONAME, -21007, "name or service not known")                                             \
    X(EAI_OVERFLOW, -21008, "the name is too long")                                                \
    X(EAI_SERVICE, -21009, "service not known for this type of socket")                            \
    X(EAI_SOCKTYPE, -21010, "type of socket not supported by the look-up")

/* X(name, code, text). TLS's. */
#define AIOLOOP_TLS_ERRORS(X)                                                                      \
    X(ESSL, -22001, "the TLS protocol was violated")                                               \
    X(ESSL_CERT_VERIFY, -22002, "the peer's certificate is not valid here")                        \
    X(ESSL_ALERT, -22003, "the peer ended TLS with an alert")                                      \
    X(ESSL_TRUNCATED, -22004, "the TLS connection was cut without a goodbye")                      \
    X(ESSL_HANDSHAKE, -22005, "the two sides of a TLS handshake did not agree")                    \
    X(ESSL_CERTIFICATE, -22006, "no certificate that can be used")                                 \
    X(ESSL_KEY, -22007, "no private key that can be used")

#define AIOLOOP_ERRORS(X) AIOLOOP_SYSTEM_ERRORS(X) AIOLOOP_LIBRARY_ERRORS(X) AIOLOOP_RESOLVER_ERRORS(X) AIOLOOP_TLS_ERRORS(X)

/* AIOLOOP_EPERM ... AIOLOOP_ENOTAVAILABLE. AIOLOOP_ETIMEDOUT is also what the system's time-outs become;
 * AIOLOOP_EINVAL, AIOLOOP_ENOMEM and AIOLOOP_EBADF are also what the library itself answers. */
enum {
#define AIOLOOP_ERROR_CONSTANT(name, code, text) AIOLOOP_##name = (code),
    AIOLOOP_ERRORS(AIOLOOP_ERROR_CONSTANT)
#undef AIOLOOP_ERROR_CONSTANT
    AIOLOOP_OK = 0
};

/* An error with its message: read-only, counted with the future or loop that it was got from. */
typedef struct aioloop_error aioloop_error;

/* The text of a code, for people: "connection refused". Never NULL; a code that is not in the list gives
 * "unknown error". Any thread. The text is the program's for ever. */
AIOLOOP_API const char *aioloop_strerror(int code);

/* The name of a code, for logs: "ECONNREFUSED". Never NULL; "EUNKNOWN" for others. Any thread. */
AIOLOOP_API const char *aioloop_error_name(int code);

/* The code of an error; 0 for NULL. */
AIOLOOP_API int aioloop_error_code(const aioloop_error *error);

/* What went wrong, in a sentence: "connect to 127.0.0.1:80: connection refused". Never NULL: where there was
 * nothing to add it is aioloop_strerror's. Valid as long as the future or loop keeps the error. */
AIOLOOP_API const char *aioloop_error_message(const aioloop_error *error);

/* How many errors this one collects (a connection that failed at every address, with all_errors), and the
 * i-th of them; 0 and NULL for a plain one or an index out of range. */
AIOLOOP_API size_t aioloop_error_count(const aioloop_error *error);
AIOLOOP_API const aioloop_error *aioloop_error_at(const aioloop_error *error, size_t i);

#endif
