// How a page joins, and how it gets back what it has lost.

import assert from 'node:assert/strict'
import { countJoins, openPage } from '../page.mjs'

export async function joined_late_the_list_is_read_when_events_begin_to_flow() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  supabase.openTransactions = 1 // an import that takes long holds up the replication slot
  page.watch()
  await clock.until(() => realtime.channels.length === 1, 'the channel is joined')
  await clock.advance(10_000)
  assert.equal(page.status, 'joining', 'joined is not live')
  const missed = supabase.insert()
  await clock.advance(10_000)
  assert.equal(page.ticket(missed.id), undefined, 'the event is lost')
  supabase.openTransactions = 0
  await clock.until(() => page.status === 'live', 'events flow')
  await clock.advance(100)
  assert.equal(page.ticket(missed.id)?.description, missed.description)
  await page.close()
}

export async function with_an_older_realtime_events_arrive_and_the_channel_is_left_in_peace() {
  const page = await openPage()
  page.realtime.reportsReady = false
  page.watch()
  const joins = countJoins(page)
  await page.clock.advance(300_000)
  const ticket = page.supabase.insert()
  await page.clock.advance(100)
  assert.ok(page.ticket(ticket.id))
  assert.deepEqual([page.status, joins()], ['joining', 1])
  await page.close()
}

export async function a_channel_that_never_becomes_ready_is_joined_again() {
  const page = await openPage()
  const { clock, supabase } = page
  supabase.openTransactions = 1
  page.watch()
  await clock.until(() => page.status === 'waiting', 'Realtime gives up')
  assert.match(page.statuses.at(-1).reason, /not established in time/)
  supabase.openTransactions = 0
  await clock.until(() => page.status === 'live', 'it is live')
  await page.close()
}

export async function a_server_that_was_gone_is_joined_again_and_missed_events_are_read() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  const ticket = supabase.insert()
  await page.live()
  realtime.stop()
  await clock.until(() => page.status === 'waiting', 'the connection is lost')
  supabase.update(ticket.id, { status: 'resolved' })
  const missed = supabase.insert()
  await clock.advance(600_000)
  assert.equal(page.status, 'waiting')
  const joins = countJoins(page)
  realtime.start()
  await clock.until(() => page.status === 'live', 'the server is back', 30_000)
  await clock.advance(1_000)
  assert.equal(page.ticket(ticket.id).status, 'resolved')
  assert.ok(page.ticket(missed.id))
  assert.ok(joins() <= 3, `no flood of ${joins()} joins that piled up`)
  await page.close()
}

export async function a_server_that_was_gone_from_the_start_is_joined_when_it_comes() {
  const page = await openPage()
  page.realtime.stop()
  page.watch()
  await page.clock.advance(600_000)
  assert.equal(page.realtime.channels.length, 0)
  assert.ok(page.reads > 5, 'the list is read all the same')
  const joins = countJoins(page)
  page.realtime.start()
  await page.clock.until(() => page.status === 'live', 'the server is there', 30_000)
  assert.ok(joins() <= 3, `no flood of ${joins()} joins that piled up`)
  await page.close()
}

export async function a_connection_that_the_browser_forbids_is_reported_and_the_list_is_read() {
  const page = await openPage()
  page.realtime.isForbidden = true
  page.watch()
  await page.clock.advance(600_000)
  assert.equal(page.status, 'waiting')
  assert.match(page.statuses.at(-1).reason, /may not connect/)
  assert.ok(page.reads > 8)
  page.realtime.isForbidden = false
  await page.clock.until(() => page.status === 'live', 'it connects')
  await page.close()
}

export async function a_network_that_swallows_everything_is_noticed() {
  const page = await openPage()
  await page.live()
  page.realtime.swallow()
  await page.clock.until(() => page.status === 'waiting', 'heartbeats get no reply')
  const missed = page.supabase.insert()
  await page.clock.until(() => page.status === 'live', 'a new connection')
  await page.clock.advance(1_000)
  assert.ok(page.ticket(missed.id))
  await page.close()
}

export async function a_database_restart_that_no_channel_reports_is_made_good_within_a_minute() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  const ticket = supabase.insert()
  await page.live()
  realtime.restartDatabase()
  await clock.advance(4_000)
  supabase.update(ticket.id, { status: 'escalated' })
  const missed = supabase.insert()
  await clock.advance(100)
  assert.equal(page.status, 'live', 'the page has no sign of it')
  assert.equal(page.ticket(missed.id), undefined)
  await clock.advance(67_000)
  assert.equal(page.timesLive, 1)
  assert.equal(page.ticket(ticket.id).status, 'escalated')
  assert.ok(page.ticket(missed.id))
  await page.close()
}

export async function a_channel_that_is_refused_while_the_database_is_down_is_joined_later() {
  const page = await openPage()
  page.realtime.restartDatabase(20_000, 1_000)
  page.watch()
  await page.clock.until(() => page.status === 'waiting', 'it is refused')
  assert.match(page.statuses.at(-1).reason, /unable to connect to the project database/)
  await page.clock.until(() => page.status === 'live', 'the database is back')
  await page.close()
}

export async function a_hidden_page_that_becomes_visible_reads_at_once() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live({ refreshEvery: 3_600_000 }) // as if the browser had slowed the timers down
  page.show('hidden')
  realtime.isRateLimited = true
  const missed = supabase.insert()
  await clock.advance(600_000)
  assert.equal(page.ticket(missed.id), undefined)
  page.show('visible')
  await clock.advance(100)
  assert.ok(page.ticket(missed.id))
  await page.close()
}

export async function a_page_that_becomes_visible_does_not_wait_for_a_pause_to_end() {
  const page = await openPage()
  const { clock, supabase } = page
  await page.live()
  const user = supabase.users.get('thandi@example.org')
  user.role = 'citizen'
  page.client.auth.refreshSession()
  await clock.until(() => page.status === 'refused', 'the user is refused')
  user.role = 'manager'
  page.show('hidden')
  page.show('visible')
  await clock.until(() => page.status === 'live', 'it is joined', 3_000)
  await page.close()
}

export async function a_channel_that_flaps_is_joined_with_growing_pauses() {
  const page = await openPage()
  const { clock, realtime } = page
  await page.live()
  const joins = countJoins(page)
  for (let second = 0; second < 600; second += 1) {
    realtime.channels[0]?.close('Too many messages per second')
    await clock.advance(1_000)
  }
  assert.ok(joins() <= 45, `${joins()} joins in ten minutes`)
  await clock.until(() => page.status === 'live', 'it recovers')
  await clock.advance(60_000)
  realtime.channels[0].close('Too many messages per second')
  await clock.advance(10)
  assert.equal(page.status, 'waiting')
  await clock.until(() => page.status === 'live', 'after a steady minute the pauses are short again', 2_500)
  await page.close()
}

export async function a_channel_that_the_page_itself_removes_is_joined_again() {
  const page = await openPage()
  await page.live()
  page.client.removeAllChannels()
  await page.clock.until(() => page.timesLive === 2, 'it is live again')
  await page.close()
}

export async function a_socket_that_the_page_itself_closes_is_opened_again() {
  const page = await openPage()
  await page.live()
  page.client.realtime.disconnect()
  await page.clock.until(() => page.timesLive === 2, 'it is live again', 200_000)
  await page.close()
}
