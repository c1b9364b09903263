// When the list is read, and what happens if that fails.

import assert from 'node:assert/strict'
import { TENANT } from '../fake-supabase.mjs'
import { livePage } from '../page.mjs'

export async function a_bulk_event_and_a_truncated_one_are_answered_by_a_read() {
  const { page, tickets } = await livePage()
  const { clock, supabase, realtime } = page
  for (const payload of [
    { type: 'BULK', municipality_id: TENANT, is_sensitive: false, insert: 0, update: 1200, delete: 3, updated_at: Date.now() / 1000 },
    { type: 'UPDATE', ticket_id: tickets[0].id, tracking_number: null, status: null, category: null, is_sensitive: false, updated_at: Date.now() / 1000 + 1, truncated: true },
  ]) {
    const { reads } = page
    realtime.isRateLimited = true
    supabase.update(tickets[0].id, { status: payload.type, updated_at: new Date(Date.now() + 500).toISOString() })
    realtime.isRateLimited = false
    for (let time = 0; time < 20; time += 1) supabase.publish(payload)
    await clock.advance(50)
    assert.notEqual(page.ticket(tickets[0].id).status, payload.type)
    assert.ok(page.ticket(tickets[0].id).status, 'null says nothing')
    await clock.advance(2_500)
    assert.equal(page.ticket(tickets[0].id).status, payload.type)
    assert.equal(page.reads, reads + 1, 'one read for all of them')
  }
  await page.close()
}

export async function an_import_beyond_bulk_after_is_answered_by_one_read() {
  const { page } = await livePage()
  const { clock, supabase, realtime, reads } = page
  // The first tickets are listed, the others counted: ordinary and sensitive ones apart.
  const tickets = [supabase.insert(), supabase.insert()]
  realtime.isRateLimited = true
  for (let number = 0; number < 40; number += 1) tickets.push(supabase.insert())
  supabase.insert({ is_sensitive: true })
  realtime.isRateLimited = false
  const counted = { type: 'BULK', municipality_id: TENANT, update: 0, delete: 0, updated_at: Date.now() / 1000 }
  supabase.publish({ ...counted, is_sensitive: false, insert: 40 })
  supabase.publish({ ...counted, is_sensitive: true, insert: 1 })
  await clock.advance(50)
  assert.ok(page.ticket(tickets[1].id) && !page.ticket(tickets[2].id))
  await clock.advance(2_500)
  assert.ok(tickets.every((ticket) => page.ticket(ticket.id)))
  assert.equal(page.reads, reads + 1)
  await page.close()
}

export async function bulk_events_without_end_do_not_put_off_the_read() {
  const { page } = await livePage()
  const { reads } = page
  for (let time = 0; time < 100; time += 1) {
    page.supabase.publish({ type: 'BULK' })
    await page.clock.advance(200)
  }
  assert.ok(page.reads - reads >= 8 && page.reads - reads <= 40, `${page.reads - reads} reads in 20 s`)
  await page.close()
}

export async function a_read_that_is_asked_for_during_another_one_follows_it() {
  const { page } = await livePage()
  const { clock, supabase, realtime } = page
  supabase.latency = 5_000
  page.watching.refresh()
  await clock.advance(1_000)
  realtime.isRateLimited = true
  const missed = supabase.insert()
  page.watching.refresh()
  await clock.advance(11_000)
  assert.ok(page.ticket(missed.id))
  await page.close()
}

export async function above_the_rate_limit_the_page_catches_up_within_a_minute() {
  const { page } = await livePage()
  const { clock, supabase, realtime } = page
  realtime.isRateLimited = true // Realtime drops what it would send: joined, and silent
  const missed = supabase.insert()
  await clock.advance(67_000)
  assert.ok(page.ticket(missed.id))
  assert.deepEqual([page.status, page.timesLive], ['live', 1])
  await page.close()
}

export async function a_read_that_fails_is_reported_and_tried_again_with_growing_pauses() {
  for (const failure of [true, 'network']) {
    const { page, tickets } = await livePage()
    const { clock, supabase } = page
    supabase.failReads = failure
    page.watching.refresh()
    await clock.advance(300_000)
    // supabase-js repeats each of them three times.
    assert.ok(page.errors.length > 5 && page.errors.length < 25, `${page.errors.length} reads in five minutes`)
    assert.equal(page.tickets.length, 3, 'the list stays as it was')
    supabase.update(tickets[0].id, { status: 'resolved' })
    await clock.advance(100)
    assert.equal(page.ticket(tickets[0].id).status, 'resolved', 'events still arrive')
    const missed = supabase.insert()
    supabase.failReads = false
    await clock.advance(31_000)
    assert.ok(page.ticket(missed.id).description)
    await page.close()
  }
}

export async function a_read_that_never_ends_is_given_up() {
  const { page } = await livePage()
  const { clock, supabase } = page
  supabase.latency = Infinity
  const { setTimeout } = globalThis
  globalThis.setTimeout = (action, milliseconds, ...rest) => (milliseconds === Infinity ? 0 : setTimeout(action, milliseconds, ...rest))
  page.watching.refresh()
  await clock.advance(20_000)
  supabase.latency = 20
  await clock.advance(20_000)
  assert.match(page.errors[0].message, /no answer within 30 s/)
  const { reads } = page
  const missed = supabase.insert()
  await clock.advance(67_000)
  assert.ok(page.reads > reads)
  assert.ok(page.ticket(missed.id).description)
  await page.close()
}

export async function errors_of_the_pages_own_callbacks_stop_nothing() {
  const { page, tickets } = await livePage()
  page.watching.stop()
  const errors = []
  let shown
  const fail = () => {
    throw new Error('of the page')
  }
  page.watch({
    onEvent: fail,
    onStatus: fail,
    onTickets: (list) => {
      shown = list
      fail()
    },
    onError: (error) => errors.push(error.message),
  })
  await page.clock.advance(10_000)
  page.supabase.update(tickets[0].id, { status: 'resolved' })
  await page.clock.advance(100)
  assert.equal(shown.find(({ id }) => id === tickets[0].id).status, 'resolved')
  assert.deepEqual([...new Set(errors)], ['of the page'])
  page.watching.stop()
  errors.length = 0
  page.watch({ keep: fail, onError: (error) => { throw errors.push(error.message) } })
  page.supabase.failReads = true
  const { error } = console
  console.error = () => {}
  await page.clock.advance(70_000)
  console.error = error
  page.supabase.failReads = false
  const { reads } = page
  await page.clock.advance(70_000)
  assert.ok(errors.includes('of the page') && errors.length > 2 && page.reads > reads)
  assert.equal(page.status, 'live')
  await page.close()
}

export async function load_may_return_rows_and_may_fail_in_any_way() {
  const { page } = await livePage()
  page.watching.stop()
  const answers = [
    () => [{ id: 7, updated_at: null, created_at: '2026-03-02T08:00:00Z' }],
    async () => [{ id: '8' }],
    () => ({ data: [{ id: 9 }], error: null }),
    () => undefined,
    () => ({ data: null, error: new Error('refused') }),
    () => Promise.reject(new Error('no network')),
    () => {
      throw new Error('thrown')
    },
  ]
  let answer
  page.watch({ load: () => answer() })
  const results = []
  for (answer of answers) {
    page.errors.length = 0
    page.watching.refresh()
    await page.clock.advance(100)
    results.push(page.errors[0]?.message ?? page.tickets[0].id)
  }
  assert.deepEqual(results, [7, '8', 9, 'load returned no rows', 'refused', 'no network', 'thrown'])
  await page.close()
}

export async function the_list_is_read_about_once_a_minute_and_not_at_the_same_moment_everywhere() {
  const { page } = await livePage()
  const { reads } = page
  const times = []
  page.supabase.requests.push = function push(request) {
    times.push(Date.now())
    return Array.prototype.push.call(this, request)
  }
  await page.clock.advance(3_600_000)
  const pauses = times.slice(1).map((time, index) => time - times[index]).filter((pause) => pause > 1_000)
  assert.ok(page.reads - reads >= 54 && page.reads - reads <= 68, `${page.reads - reads}`)
  assert.ok(new Set(pauses.map((pause) => Math.round(pause / 1_000))).size > 5, 'the pauses differ')
  await page.close()
}
