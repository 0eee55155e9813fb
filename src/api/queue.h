/*
 * queue.h - queues between the tasks of one loop.                                   (asyncio: queues.py)
 *
 * An item is a pointer. What sync.h says of owners, of the order of those who wait and of a closed loop holds here too.
 * aioloop_close ends all items that are in the queue.
 */
#ifndef AIOLOOP_API_QUEUE_H
#define AIOLOOP_API_QUEUE_H

#include "api/future.h"

/* asyncio.Queue, LifoQueue, PriorityQueue. */
typedef enum aioloop_queue_kind { AIOLOOP_QUEUE_FIFO, AIOLOOP_QUEUE_LIFO, AIOLOOP_QUEUE_PRIORITY } aioloop_queue_kind;

/* All zero: asyncio's defaults. */
typedef struct aioloop_queue_options {
    aioloop_queue_kind kind;
    int64_t maxsize; /* 0 or less: unbounded */
    /* For AIOLOOP_QUEUE_PRIORITY: below 0 if a comes out before b, as qsort's; equal ones come out in the order they
     * were put. It must not call the library. */
    int (*compare)(const void *a, const void *b);
} aioloop_queue_options;

typedef struct aioloop_queue aioloop_queue;

/* asyncio.Queue(maxsize) and its kin. options may be NULL. NULL, and aioloop_last_error: AIOLOOP_ENOMEM,
 * AIOLOOP_ECLOSED; AIOLOOP_EINVAL for an unknown kind, or priority without compare. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_queue *aioloop_queue_new(aioloop *loop, const aioloop_queue_options *options);

/* Cancels those who wait, and disposes of the items. Needs no memory. NULL is ignored. */
AIOLOOP_API void aioloop_queue_free(aioloop_queue *queue);

/* Queue.put(): done, with 0, when the item is in the queue; at once if there is room. From the call on the item is the
 * queue's: dispose (may be NULL) is called with it if it is not put, because this failed or was cancelled (then when
 * its future goes), or if nobody gets it. A task that is told AIOLOOP_ECANCELED does not know whether it was put.
 * AIOLOOP_EQUEUESHUTDOWN. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_queue_put(aioloop_queue *queue, void *item,
                                                               void (*dispose)(void *item));

/* Queue.put_nowait(): 0, or AIOLOOP_EQUEUEFULL, AIOLOOP_EQUEUESHUTDOWN, AIOLOOP_ENOMEM, and then the item is still the
 * caller's. Needs no memory but the queue's own, which grows. */
AIOLOOP_API int aioloop_queue_put_nowait(aioloop_queue *queue, void *item, void (*dispose)(void *item));

/* Queue.get(): done, with the item as its pointer, when there is one. Reading the result takes the item, so give it an
 * `out`. One that a cancelled task did not take goes back to where it was, also if the queue is then longer than
 * maxsize. AIOLOOP_EQUEUESHUTDOWN if the queue is shut down and empty. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_queue_get(aioloop_queue *queue);

/* Queue.get_nowait(): 0, with the item at out (the address of an object pointer); or AIOLOOP_EQUEUEEMPTY,
 * AIOLOOP_EQUEUESHUTDOWN. Needs no memory. AIOLOOP_EINVAL if out is NULL. */
AIOLOOP_API int aioloop_queue_get_nowait(aioloop_queue *queue, void *out);

/* Queue.task_done(): an item that was got is dealt with. AIOLOOP_EINVAL if called more often than items were put. */
AIOLOOP_API int aioloop_queue_task_done(aioloop_queue *queue);

/* Queue.join(): done, with 0, when aioloop_queue_task_done was called for every item put. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_queue_join(aioloop_queue *queue);

/* Queue.shutdown(): from now on putting fails, also for those who wait for room; getting fails when the queue is empty.
 * immediate: the items in it are disposed of, and count as done. Needs no memory. */
AIOLOOP_API int aioloop_queue_shutdown(aioloop_queue *queue, bool immediate);

/* Queue.qsize(), maxsize (0: unbounded), empty(), full(). 0 and false for NULL, which is empty. */
AIOLOOP_API size_t aioloop_queue_qsize(const aioloop_queue *queue);
AIOLOOP_API int64_t aioloop_queue_maxsize(const aioloop_queue *queue);
AIOLOOP_API bool aioloop_queue_empty(const aioloop_queue *queue);
AIOLOOP_API bool aioloop_queue_full(const aioloop_queue *queue);

#endif
