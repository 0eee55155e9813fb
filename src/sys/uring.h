/*
 * uring.h - io_uring as the kernel has it. Programs are often built with headers older than the kernel they run on (or
 * with none: musl, tcc), so the interface stands here, with the kernel's numbers and names of our own.
 */
#ifndef AIOL_SYS_URING_H
#define AIOL_SYS_URING_H

#include "sys/sys.h"

#if AIOL_HAVE_URING

/* io_uring_setup */
#define AIOL_URING_CQSIZE 0x8u
#define AIOL_URING_CLAMP 0x10u
#define AIOL_URING_R_DISABLED 0x40u
#define AIOL_URING_SUBMIT_ALL 0x80u
#define AIOL_URING_COOP_TASKRUN 0x100u
#define AIOL_URING_TASKRUN_FLAG 0x200u
#define AIOL_URING_SINGLE_ISSUER 0x1000u
#define AIOL_URING_DEFER_TASKRUN 0x2000u
/* One mapping, nothing dropped, arguments copied, polls by itself, a time-out in enter, and (5.17) no completion on
 * success. */
#define AIOL_URING_FEATURES (0x1u | 0x2u | 0x4u | 0x20u | 0x100u | 0x800u)
#define AIOL_URING_MAP_RINGS 0
#define AIOL_URING_MAP_ENTRIES 0x10000000

/* io_uring_enter, and the flags of the submission ring */
#define AIOL_URING_GETEVENTS 0x1u
#define AIOL_URING_EXT_ARG 0x8u
#define AIOL_URING_SQ_OVERFLOW 0x2u
#define AIOL_URING_SQ_TASKRUN 0x4u

/* io_uring_register */
#define AIOL_URING_ENABLE 12u
#define AIOL_URING_REGISTER_EVENTFD 4u
#define AIOL_URING_UNREGISTER_EVENTFD 5u
#define AIOL_URING_REGISTER_BUFFERS 22u
#define AIOL_URING_BUFFERS_INCREMENTAL 2u

/* operations, and their flags */
enum {
    AIOL_URING_WRITEV = 2,
    AIOL_URING_POLL_ADD = 6,
    AIOL_URING_SENDMSG = 9,
    AIOL_URING_RECVMSG = 10,
    AIOL_URING_ACCEPT = 13,
    AIOL_URING_CANCEL = 14,
    AIOL_URING_READ = 22,
    AIOL_URING_WRITE = 23,
    AIOL_URING_SEND = 26,
    AIOL_URING_RECV = 27
};
#define AIOL_URING_BUFFER_SELECT 0x20u
#define AIOL_URING_SKIP_SUCCESS 0x40u
#define AIOL_URING_NOWAIT 0x8u     /* RWF_NOWAIT, */
#define AIOL_URING_NOSIGNAL 0x100u /* and RWF_NOSIGNAL (6.18) */
#define AIOL_URING_RECV_MULTISHOT 0x2u
#define AIOL_URING_ACCEPT_MULTISHOT 0x1u
#define AIOL_URING_CANCEL_ALL 0x1u
#define AIOL_URING_CANCEL_ANY 0x4u

/* completions */
#define AIOL_URING_F_BUFFER 0x1u
#define AIOL_URING_F_MORE 0x2u
#define AIOL_URING_F_BUFFER_MORE 0x10u

typedef struct aiol_uring_entry {
    uint8_t operation;
    uint8_t flags;
    uint16_t priority; /* of recv and accept: their own flags */
    int32_t fd;
    uint64_t offset;
    uint64_t address;
    uint32_t size;
    uint32_t operation_flags;
    uint64_t user_data;
    uint16_t buffer_group;
    uint16_t personality;
    int32_t file_index;
    uint64_t more[2];
} aiol_uring_entry;

typedef struct aiol_uring_completion {
    uint64_t user_data;
    int32_t result;
    uint32_t flags;
} aiol_uring_completion;

typedef struct aiol_uring_setup {
    uint32_t sq_entries;
    uint32_t cq_entries;
    uint32_t flags;
    uint32_t sq_thread_cpu;
    uint32_t sq_thread_idle;
    uint32_t features;
    uint32_t wq_fd;
    uint32_t reserved[3];
    struct {
        uint32_t head, tail, mask, entries, flags, dropped, array, reserved;
        uint64_t user_address;
    } sq;
    struct {
        uint32_t head, tail, mask, entries, overflow, completions, flags, reserved;
        uint64_t user_address;
    } cq;
} aiol_uring_setup;

/* An entry of the ring of buffers; the ring's tail is the last member of the first one. */
typedef struct aiol_uring_buffer {
    uint64_t address;
    uint32_t size;
    uint16_t id;
    uint16_t tail;
} aiol_uring_buffer;

typedef struct aiol_uring_buffers {
    uint64_t address;
    uint32_t entries;
    uint16_t group;
    uint16_t flags;
    uint64_t reserved[3];
} aiol_uring_buffers;

/* What a multishot RECVMSG begins its buffers with; room for the name follows, then the datagram. */
typedef struct aiol_uring_received {
    uint32_t name_size;
    uint32_t control_size;
    uint32_t size;
    uint32_t flags; /* MSG_... */
} aiol_uring_received;

/* The argument of enter: a time-out. */
typedef struct aiol_uring_wait {
    uint64_t sigmask;
    uint32_t sigmask_size;
    uint32_t min_wait;
    uint64_t timeout; /* of int64_t[2]: seconds, nanoseconds */
} aiol_uring_wait;

AIOL_STATIC_ASSERT(sizeof(aiol_uring_entry) == 64 && sizeof(aiol_uring_completion) == 16 && sizeof(aiol_uring_setup) == 120 &&
                       sizeof(aiol_uring_buffer) == 16 && sizeof(aiol_uring_buffers) == 40 && sizeof(aiol_uring_received) == 16 && sizeof(aiol_uring_wait) == 24,
                   uring_is_the_kernels);

/* The same numbers on every architecture but alpha, which has them from 535. */
#ifdef SYS_io_uring_setup
#define AIOL_SYS_URING_SETUP SYS_io_uring_setup
#define AIOL_SYS_URING_ENTER SYS_io_uring_enter
#define AIOL_SYS_URING_REGISTER SYS_io_uring_register
#else
#define AIOL_SYS_URING_SETUP 425
#define AIOL_SYS_URING_ENTER 426
#define AIOL_SYS_URING_REGISTER 427
#endif

#endif
#endif
