/*
 * sync.h - locks and their kin, for the tasks of one loop.                           (asyncio: locks.py)
 *
 * They order tasks, not threads: all calls are made in the loop's thread. Each object has one owner, who made it and
 * frees it; what was not freed goes with the loop (aioloop_free), and must not be used after that. Freeing one cancels
 * the futures of those who still wait.
 *
 * Those who wait are served in the order in which they came, and nobody overtakes them. A future that is cancelled
 * leaves the line. What was handed over to a task that was cancelled before it went on (or to a future that was
 * dropped) goes to the next in line. A lock or a place among n that a future stands for is taken by reading it
 * (aioloop_await, aioloop_future_result) and must then be released.
 *
 * There is no time-out here: aioloop_wait_for and aioloop_timeout_enter are for all futures alike.
 *
 * Every call answers AIOLOOP_EINVAL for NULL. Once the loop is closed acquiring and waiting answer AIOLOOP_ECLOSED,
 * releasing, setting and asking go on, and those who waited wait for ever. In debug mode calls from a wrong thread are
 * AIOLOOP_EMISUSE.
 */
#ifndef AIOLOOP_API_SYNC_H
#define AIOLOOP_API_SYNC_H

#include "api/future.h"

/* ---- Lock ---- */

typedef struct aioloop_lock aioloop_lock;

/* asyncio.Lock(). NULL, and aioloop_last_error: AIOLOOP_ENOMEM, AIOLOOP_ECLOSED; so for all that follow. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_lock *aioloop_lock_new(aioloop *loop);

/* Those who wait are cancelled. Needs no memory. NULL is ignored. */
AIOLOOP_API void aioloop_lock_free(aioloop_lock *lock);

/* Lock.acquire(): done, with 0, when the lock is the caller's; at once if it is free. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_lock_acquire(aioloop_lock *lock);

/* The same without waiting and without memory: 0, or AIOLOOP_EAGAIN if it is held. */
AIOLOOP_API int aioloop_lock_acquire_nowait(aioloop_lock *lock);

/* Lock.release(): hands it to the first who waits. Needs no memory. AIOLOOP_EMISUSE if it is not held; it does not
 * matter who holds it. */
AIOLOOP_API int aioloop_lock_release(aioloop_lock *lock);

/* Lock.locked(). False for NULL. */
AIOLOOP_API bool aioloop_lock_locked(const aioloop_lock *lock);

/* ---- Event ---- */

typedef struct aioloop_event aioloop_event;

/* asyncio.Event(), not set. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_event *aioloop_event_new(aioloop *loop);
AIOLOOP_API void aioloop_event_free(aioloop_event *event);

/* Event.set(): everyone who waits goes on, also if it is cleared right after. Event.clear(). Event.is_set(). Need no
 * memory. */
AIOLOOP_API int aioloop_event_set(aioloop_event *event);
AIOLOOP_API int aioloop_event_clear(aioloop_event *event);
AIOLOOP_API bool aioloop_event_is_set(const aioloop_event *event);

/* Event.wait(): done, with 0, when it is set; at once if it is. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_event_wait(aioloop_event *event);

/* ---- Condition ---- */

typedef struct aioloop_condition aioloop_condition;

/* asyncio.Condition(lock). lock NULL: one of its own; else it must live longer than the condition, and may serve
 * several. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_condition *aioloop_condition_new(aioloop *loop, aioloop_lock *lock);

/* Those who wait are cancelled; if the lock is not the condition's own, each of them as soon as it has it again. */
AIOLOOP_API void aioloop_condition_free(aioloop_condition *condition);

/* Those of its lock. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_condition_acquire(aioloop_condition *condition);
AIOLOOP_API int aioloop_condition_acquire_nowait(aioloop_condition *condition);
AIOLOOP_API int aioloop_condition_release(aioloop_condition *condition);
AIOLOOP_API bool aioloop_condition_locked(const aioloop_condition *condition);

/* Condition.wait(): releases the lock, and is done, with 0, when it was notified and has the lock again. However it
 * ends, the caller has the lock then, also when it is told AIOLOOP_ECANCELED: cancelling takes until the lock is free.
 * Only a call that fails at once (AIOLOOP_EMISUSE if the lock is not held, AIOLOOP_ENOMEM) leaves all as it was. A
 * notification that comes to a task that is cancelled goes on to the next. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_condition_wait(aioloop_condition *condition);

/* Condition.wait_for(): waits until predicate(arg) answers something else than 0, which is the result; below 0 the wait
 * has failed with that code. The predicate is asked at once, and by a task of its own with the lock held as that begins
 * and after each notification; it may not wait. Otherwise as aioloop_condition_wait. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_condition_wait_for(aioloop_condition *condition,
                                                                        int64_t (*predicate)(void *arg), void *arg);

/* Condition.notify(n), notify_all(): the first n of those who wait, or all of them, go on as the lock becomes free.
 * Need no memory. AIOLOOP_EMISUSE if the lock is not held. */
AIOLOOP_API int aioloop_condition_notify(aioloop_condition *condition, size_t n);
AIOLOOP_API int aioloop_condition_notify_all(aioloop_condition *condition);

/* ---- Semaphore, BoundedSemaphore ---- */

typedef struct aioloop_semaphore aioloop_semaphore;

/* asyncio.Semaphore(value): lets value in. asyncio.BoundedSemaphore(value): and refuses a release above that.
 * AIOLOOP_EINVAL for a negative value. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_semaphore *aioloop_semaphore_new(aioloop *loop, int64_t value);
AIOLOOP_API AIOLOOP_MUST_USE aioloop_semaphore *aioloop_bounded_semaphore_new(aioloop *loop, int64_t value);
AIOLOOP_API void aioloop_semaphore_free(aioloop_semaphore *semaphore);

/* Semaphore.acquire(), and without waiting (AIOLOOP_EAGAIN), as those of a lock. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_semaphore_acquire(aioloop_semaphore *semaphore);
AIOLOOP_API int aioloop_semaphore_acquire_nowait(aioloop_semaphore *semaphore);

/* Semaphore.release(): lets one more in. Needs no memory. AIOLOOP_EINVAL for a bounded one that is at its value
 * already. */
AIOLOOP_API int aioloop_semaphore_release(aioloop_semaphore *semaphore);

/* Semaphore.locked(): true if acquiring would wait. */
AIOLOOP_API bool aioloop_semaphore_locked(const aioloop_semaphore *semaphore);

/* ---- Barrier ---- */

typedef struct aioloop_barrier aioloop_barrier;

/* asyncio.Barrier(parties). AIOLOOP_EINVAL if parties is below 1. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_barrier *aioloop_barrier_new(aioloop *loop, int parties);
AIOLOOP_API void aioloop_barrier_free(aioloop_barrier *barrier);

/* Barrier.wait(): done when as many wait as there are parties; its number says which of them this is, from 0 to parties
 * - 1 in the order of their coming. AIOLOOP_EBROKENBARRIER if the barrier is broken, or is broken or reset meanwhile.
 * One that is cancelled is not counted any more. Those who were let through are not affected by what happens to the
 * barrier later, and it fills anew at once; asyncio waits until all of them have run. */
AIOLOOP_API AIOLOOP_MUST_USE aioloop_future *aioloop_barrier_wait(aioloop_barrier *barrier);

/* Barrier.reset(): those who wait fail, and the barrier is empty and whole again. Barrier.abort(): those who wait fail,
 * and all that come later, until it is reset. Plain calls, not coroutines as asyncio's. */
AIOLOOP_API int aioloop_barrier_reset(aioloop_barrier *barrier);
AIOLOOP_API int aioloop_barrier_abort(aioloop_barrier *barrier);

/* Barrier.parties, n_waiting, broken. 0 and false for NULL. */
AIOLOOP_API int aioloop_barrier_parties(const aioloop_barrier *barrier);
AIOLOOP_API int aioloop_barrier_n_waiting(const aioloop_barrier *barrier);
AIOLOOP_API bool aioloop_barrier_broken(const aioloop_barrier *barrier);

#endif
