// Tokens that expire, roles that change.

import assert from 'node:assert/strict'
import { fakeWebSocket } from '../fake-realtime.mjs'
import { readToken } from '../fake-supabase.mjs'
import { countJoins, openPage, sleep } from '../page.mjs'
import { createClient } from '../runtime.mjs'

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
  await clock.until(() => page.timesLive === 2, 'it is live again')
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
