// How a page joins, loses and regains its channels.

import assert from 'node:assert/strict'
import { openPage } from '../page.mjs'
import { fakeWebSocket } from '../fake-realtime.mjs'
import { readToken, TENANT } from '../fake-supabase.mjs'

const TOPIC = `ticket_updates:${TENANT}`

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

export async function an_expired_token_is_renewed_and_the_channel_joined_again() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live()
  const wake = sleep(page)
  const before = realtime.channels[0].claims.exp
  await clock.until(() => page.status === 'waiting', 'the channel is closed', 3_700_000)
  wake()
  assert.match(page.statuses.at(-1).reason, /^Token has expired \d+ seconds ago$/)
  const missed = supabase.insert()
  await clock.until(() => page.status === 'live', 'it is joined again', 5_000)
  await clock.advance(100)
  assert.ok(realtime.channels[0].claims.exp > before, 'with a new token')
  assert.ok(page.ticket(missed.id))
  await page.close()
}

export async function a_token_that_only_the_server_sees_as_expired_is_renewed() {
  const page = await openPage()
  const { clock, realtime } = page
  await page.live()
  sleep(page) // getSession() believes this computer's clock, and would join with the old token for ever
  const [channel] = realtime.channels
  await clock.advance(3_700_000)
  await clock.until(() => page.status === 'live', 'it is live again')
  assert.notEqual(realtime.channels[0], channel)
  assert.ok(realtime.channels[0].claims.exp > channel.claims.exp)
  await page.close()
}

export async function a_role_that_was_taken_away_is_reported_once_and_not_tried_again_fast() {
  const page = await openPage()
  const { clock, supabase } = page
  await page.live()
  supabase.users.get('thandi@example.org').role = 'citizen'
  const renewed = page.client.auth.refreshSession()
  await clock.until(() => page.status === 'waiting', 'the channel is closed')
  await renewed
  assert.match(page.statuses.at(-1).reason, /do not have permissions/)
  await clock.until(() => page.status === 'refused', 'the user is refused')
  const joins = countJoins(page)
  await clock.advance(3_600_000)
  assert.equal(page.statuses.filter(({ status }) => status === 'refused').length, 1, 'it is said once')
  assert.ok(joins() <= 14, `${joins()} joins in an hour`)
  assert.ok(joins() >= 10, 'it is still tried')
  await page.close()
}

export async function a_role_that_is_given_back_is_noticed() {
  const page = await openPage()
  const { clock, supabase } = page
  await page.live()
  const user = supabase.users.get('thandi@example.org')
  user.role = 'citizen'
  page.client.auth.refreshSession()
  await clock.until(() => page.status === 'refused', 'the user is refused')
  user.role = 'manager'
  await clock.until(() => page.status === 'live', 'the user may join again', 400_000)
  await page.close()
}

export async function a_role_of_which_the_token_knows_nothing_yet_is_found_by_renewing_it() {
  const page = await openPage({ email: 'citizen@example.org' })
  page.supabase.users.get('citizen@example.org').role = 'manager'
  page.watch()
  await page.clock.until(() => page.status === 'live', 'the renewed token has the new role')
  assert.ok(!page.statuses.some(({ status }) => status === 'refused'))
  await page.close()
}

export async function without_a_session_the_page_is_refused_and_stays_quiet() {
  const page = await openPage()
  page.supabase.revokeSessions()
  const signOut = page.client.auth.signOut()
  await page.clock.advance(1_000)
  await signOut
  page.watch()
  await page.clock.until(() => page.status === 'refused', 'nobody is signed in')
  const joins = countJoins(page)
  await page.clock.advance(3_600_000)
  assert.ok(joins() <= 14, `${joins()} joins in an hour`)
  await page.close()
}

export async function a_client_with_its_own_access_token_function_recovers_too() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  const { createClient } = await import(`file://${process.env.PG_CIVIC_SUPABASE_JS}/node_modules/@supabase/supabase-js/dist/index.mjs`)
  const { data } = await page.client.auth.getSession()
  let token = data.session.access_token
  const client = createClient('https://supabase.example.org', supabase.anonKey, {
    accessToken: async () => token,
    global: { fetch: supabase.fetch },
    realtime: { transport: fakeWebSocket(realtime) },
  })
  await page.live({ supabase: client, load: ({ signal }) => client.from('tickets').select('*').abortSignal(signal) })
  const renewed = page.client.auth.refreshSession()
  await clock.advance(1_000)
  token = (await renewed).data.session.access_token // the client has not asked for it yet
  realtime.channels[0].close('Token has expired 0 seconds ago')
  await clock.until(() => page.joins === 2, 'it is live again')
  await clock.advance(100)
  const { jti } = readToken(token).claims
  assert.equal(realtime.channels[0].joinedWith.jti, jti, 'with the new token')
  client.removeAllChannels()
  await page.close()
}

export async function a_user_is_not_refused_because_their_session_could_not_be_renewed() {
  const page = await openPage()
  const { clock, supabase } = page
  await page.live()
  const user = supabase.users.get('thandi@example.org')
  user.role = 'citizen'
  page.client.auth.refreshSession()
  await clock.until(() => page.status === 'waiting', 'the channel is closed')
  user.role = 'manager'
  supabase.failReads = 'network' // which is Auth's network too
  await clock.advance(40_000)
  supabase.failReads = false
  await clock.until(() => page.status === 'live', 'the renewed token has the role', 90_000)
  assert.ok(!page.statuses.some(({ status }) => status === 'refused'))
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
  assert.equal(page.joins, 1)
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
  await page.clock.until(() => page.joins === 2, 'it is live again')
  await page.close()
}

export async function a_socket_that_the_page_itself_closes_is_opened_again() {
  const page = await openPage()
  await page.live()
  page.client.realtime.disconnect()
  await page.clock.until(() => page.joins === 2, 'it is live again', 200_000)
  await page.close()
}

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
  await page.clock.until(() => page.joins === 2, 'it is live again')
  await page.close()
}

export async function replay_brings_the_newest_missed_events_once() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  await page.live()
  realtime.channels[0].close('Token has expired 0 seconds ago')
  await clock.advance(10)
  const missed = Array.from({ length: 30 }, () => supabase.insert())
  await clock.until(() => page.joins === 2, 'it is live again')
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
  await clock.until(() => page.joins === 2, 'it is live again')
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
  await clock.until(() => page.joins === 2, 'it is live again')
  await clock.advance(1_000)
  assert.ok(page.events.some(({ replayed, payload }) => replayed && payload.status === 'in_progress'))
  assert.equal(page.ticket(ticket.id).status, 'resolved')
  await page.close()
}

export async function the_fake_refuses_and_reports_as_the_real_server_does() {
  const page = await openPage()
  const { clock, client, realtime, supabase } = page
  const seen = []
  const join = (topic, config) => {
    const channel = client.channel(topic, { config })
    channel.on('system', {}, ({ message }) => seen.push(message)).on('broadcast', { event: '*' }, ({ payload }) => seen.push(payload.type))
    channel.subscribe((status, error) => seen.push(error?.message ?? status))
    return channel
  }
  const expect = async (milliseconds, ...expected) => {
    await clock.advance(milliseconds)
    assert.deepEqual(seen.splice(0), expected)
  }
  join('ticket_updates:another', { private: true })
  await expect(5_100, 'Unauthorized: You do not have permissions to read from this Channel topic: ticket_updates:another')
  client.removeAllChannels()
  await clock.advance(2_000)
  seen.splice(0)
  realtime.privateOnly = true
  join(TOPIC, {})
  await expect(5_500, 'PrivateOnly: This project only allows private channels')
  client.removeAllChannels()
  await clock.advance(2_000)
  seen.splice(0)
  realtime.privateOnly = false
  const open = join(TOPIC, {})
  await expect(1_000, 'SUBSCRIBED')
  supabase.insert()
  await expect(1_000)
  const forger = realtime.channels[0]
  realtime.relay({ topic: forger.topic }, 'UPDATE', { type: 'UPDATE' })
  await expect(1_000, 'UPDATE')
  client.removeChannel(open)
  await expect(1_000, 'CLOSED')
  join(TOPIC, { private: true, broadcast: { replication_ready: true } })
  await expect(1_000, 'SUBSCRIBED', 'Replication connection established')
  supabase.tokenLifetime = 60
  client.auth.refreshSession()
  await clock.advance(1_000)
  sleep(page)
  await expect(60_000, 'Token has expired 0 seconds ago', 'CLOSED')
  await page.close()
}

/** supabase-js does not renew the token, as in a computer that sleeps, until the returned function is called. */
function sleep({ client }) {
  client.auth.stopAutoRefresh()
  const { getSession } = client.auth
  let session = { access_token: client.realtime.accessTokenValue }
  client.auth.onAuthStateChange((_, renewed) => {
    session = renewed ?? session
  })
  client.auth.getSession = async () => ({ data: { session } })
  return () => {
    client.auth.getSession = getSession
  }
}

/** The joins that reach the server from now on. */
function countJoins({ realtime }) {
  let joins = 0
  const connect = realtime.connect.bind(realtime)
  const watch = (connection) => {
    const receive = connection.receive.bind(connection)
    connection.receive = (frame) => {
      if (typeof frame === 'string' && JSON.parse(frame)[3] === 'phx_join') joins += 1
      receive(frame)
    }
    return connection
  }
  for (const connection of realtime.connections) watch(connection)
  realtime.connect = (...options) => {
    const connection = connect(...options)
    return connection && watch(connection)
  }
  return () => joins
}
