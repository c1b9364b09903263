// What `stop` ends, and what a page that was away learns.

import assert from 'node:assert/strict'
import { TENANT } from '../fake-supabase.mjs'
import { countJoins, openPage } from '../page.mjs'

const TOPIC = `ticket_updates:${TENANT}`

export async function stop_leaves_the_channel_and_nothing_runs_after_it() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live()
  page.watching.stop()
  const { reads, shown } = page
  const [statuses, events] = [page.statuses.length, page.events.length]
  await clock.advance(100)
  assert.equal(realtime.channels.length, 0)
  supabase.insert()
  page.show('visible')
  await clock.advance(3_600_000)
  assert.deepEqual([page.reads, page.shown, page.statuses.length, page.events.length], [reads, shown, statuses, events])
  await page.close()
}

export async function stop_ends_an_attempt_that_waits() {
  for (const moment of [0, 1, 10, 500, 3_000, 7_000]) {
    const page = await openPage({ email: 'citizen@example.org' })
    page.watch()
    await page.clock.advance(moment)
    page.watching.stop()
    const joins = countJoins(page)
    await page.clock.advance(600_000)
    assert.equal(page.realtime.channels.length, 0)
    assert.ok(joins() <= 1, `after ${moment} ms`) // one may be on its way already
    await page.close()
  }
}

export async function stop_ends_an_attempt_that_waits_for_a_new_session() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live()
  supabase.latency = 5_000
  realtime.channels[0].close('Token has expired 0 seconds ago')
  await clock.advance(3_000)
  page.watching.stop()
  const joins = countJoins(page)
  await clock.advance(600_000)
  assert.deepEqual([joins(), realtime.channels.length], [0, 0])
  await page.close()
}

export async function stop_ends_the_reads_also_while_one_is_on_its_way() {
  const page = await openPage()
  await page.live()
  page.supabase.latency = 5_000
  page.watching.refresh()
  await page.clock.advance(1_000)
  page.watching.stop()
  const { reads, shown } = page
  await page.clock.advance(3_600_000)
  assert.deepEqual([page.reads, page.shown], [reads, shown])
  await page.close()
}

export async function a_topic_can_be_watched_again_after_stop_but_not_twice() {
  const page = await openPage()
  await page.live()
  assert.throws(() => page.watchTickets({ supabase: page.client, topics: TOPIC, load: () => [] }), /has joined ticket_updates/)
  page.watching.stop()
  page.watch() // as in React's strict mode, in the same moment
  await page.clock.until(() => page.timesLive === 2, 'it is live again')
  await page.close()
}

export async function replay_brings_the_newest_missed_events_once() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live()
  realtime.channels[0].close('Token has expired 0 seconds ago')
  await clock.advance(10)
  const missed = Array.from({ length: 30 }, () => supabase.insert())
  await clock.until(() => page.timesLive === 2, 'it is live again')
  await clock.advance(1_000)
  const replayed = page.events.filter(({ replayed }) => replayed).map(({ payload }) => payload.ticket_id)
  assert.deepEqual(replayed, missed.slice(-25).map(({ id }) => id), 'the newest 25, the oldest first')
  assert.equal(page.tickets.length, 30, 'the list has all')
  await page.close()
}

export async function replay_works_after_a_lost_connection_too() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live()
  const known = supabase.insert()
  await clock.advance(100)
  realtime.stop()
  await clock.advance(100)
  const missed = supabase.insert()
  realtime.start()
  await clock.until(() => page.timesLive === 2, 'it is live again')
  await clock.advance(1_000)
  assert.deepEqual(page.events.map(({ payload, replayed }) => [payload.ticket_id, replayed]), [[known.id, false], [missed.id, true]])
  await page.close()
}

export async function replayed_events_of_an_earlier_time_do_not_change_the_list() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  const ticket = supabase.insert({ status: 'open' })
  supabase.update(ticket.id, { status: 'in_progress' })
  await page.live()
  supabase.update(ticket.id, { status: 'resolved' })
  await clock.advance(100)
  supabase.failReads = true
  realtime.channels[0].close('Too many messages per second')
  await clock.until(() => page.timesLive === 2, 'it is live again')
  await clock.advance(1_000)
  assert.ok(page.events.some(({ replayed, payload }) => replayed && payload.status === 'in_progress'))
  assert.equal(page.ticket(ticket.id).status, 'resolved')
  await page.close()
}
