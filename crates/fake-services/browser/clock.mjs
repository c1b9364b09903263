// A clock that moves only when a test says so. It drives supabase-js, the module under test and the fake
// services alike, so that an hour takes seconds.

import { nextTurn } from './runtime.mjs'

export function installClock(start = Date.parse('2026-03-02T08:00:00Z')) {
  let now = start
  let nextId = 1
  const timers = new Map()
  const RealDate = Date

  globalThis.Date = class extends RealDate {
    constructor(...parts) {
      super(...(parts.length === 0 ? [now] : parts))
    }
    static now() {
      return now
    }
  }

  function add(callback, milliseconds, interval, args) {
    const id = nextId++
    const delay = Math.max(1, Number(milliseconds) || 0)
    timers.set(id, { due: now + delay, id, callback, args, interval: interval ? delay : undefined })
    return { id, ref() {}, unref() {}, hasRef: () => true, [Symbol.toPrimitive]: () => id }
  }
  const remove = (timer) => timers.delete(typeof timer === 'object' && timer !== null ? timer.id : timer)
  globalThis.setTimeout = (callback, milliseconds, ...args) => add(callback, milliseconds, false, args)
  globalThis.setInterval = (callback, milliseconds, ...args) => add(callback, milliseconds, true, args)
  globalThis.clearTimeout = remove
  globalThis.clearInterval = remove

  /** Lets promises, and the streams of responses, come to rest. */
  async function settle() {
    for (let round = 0; round < 4; round += 1) await nextTurn()
  }

  async function advance(milliseconds) {
    const end = now + milliseconds
    await settle()
    for (;;) {
      let first
      for (const timer of timers.values()) {
        if (timer.due <= end && (!first || timer.due < first.due || (timer.due === first.due && timer.id < first.id))) first = timer
      }
      if (!first) break
      now = first.due
      if (first.interval) first.due += first.interval
      else timers.delete(first.id)
      first.callback(...first.args)
      await settle()
    }
    now = end
  }

  /** Moves on until the condition holds. */
  async function until(condition, what, limit = 120_000) {
    const end = now + limit
    while (!condition()) {
      if (now >= end) throw new Error(`not within ${limit / 1000} s: ${what}`)
      await advance(50)
    }
  }

  return { advance, settle, until, now: () => now, pending: () => timers.size }
}
