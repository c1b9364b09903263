// What events make of the list.

import assert from 'node:assert/strict'
import { OTHER_TENANT, TENANT } from '../fake-supabase.mjs'
import { livePage, openPage } from '../page.mjs'

const TOPIC = `ticket_updates:${TENANT}`

export async function events_change_the_list_at_once() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  const added = supabase.insert({ status: 'open', category: 'roads' })
  supabase.update(tickets[0].id, { status: 'resolved' })
  supabase.delete(tickets[1].id)
  await clock.advance(50)
  assert.equal(page.reads, 2, 'without another read')
  assert.deepEqual(page.tickets.map(({ id }) => id), [tickets[0].id, tickets[2].id, added.id])
  assert.equal(page.ticket(tickets[0].id).status, 'resolved')
  assert.equal(page.ticket(tickets[0].id).description, tickets[0].description, 'what no event carries is kept')
  assert.equal(page.ticket(added.id).category, 'roads')
  await page.close()
}

export async function a_column_that_the_list_does_not_have_is_not_added_as_null() {
  const page = await openPage()
  const { clock, supabase } = page
  const ticket = supabase.insert({ ward_id: null })
  await page.live({ load: () => page.client.from('tickets').select('id, status, category, created_at, updated_at') })
  supabase.update(ticket.id, { status: 'resolved', category: null })
  await clock.advance(50)
  const { id, ...shown } = page.ticket(ticket.id)
  assert.equal(id, ticket.id)
  assert.deepEqual([shown.status, shown.category, 'ward_id' in shown], ['resolved', null, false])
  await page.close()
}

export async function an_event_without_a_time_leaves_the_time_as_it_was() {
  const { page, tickets } = await livePage()
  const { updated_at } = page.supabase.update(tickets[0].id, {})
  page.supabase.publish({ type: 'UPDATE', ticket_id: tickets[0].id, status: 'resolved', updated_at: null })
  await page.clock.advance(50)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved')
  assert.equal(page.ticket(tickets[0].id).updated_at, updated_at)
  await page.close()
}

export async function an_event_older_than_the_row_that_was_read_does_not_overwrite_it() {
  const { page, tickets } = await livePage()
  const { clock, supabase, realtime } = page
  const late = []
  const broadcast = realtime.channels[0].broadcast
  realtime.channels[0].broadcast = (message) => late.push(message)
  supabase.update(tickets[0].id, { status: 'in_progress' })
  await clock.advance(10)
  supabase.update(tickets[0].id, { status: 'resolved' })
  page.watching.refresh()
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved')
  broadcast.call(realtime.channels[0], late[0])
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved', 'the late event is older')
  broadcast.call(realtime.channels[0], late[1])
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved')
  assert.deepEqual(page.events.map(({ payload }) => payload.status), ['in_progress', 'resolved'], 'onEvent sees both')
  await page.close()
}

export async function events_that_arrive_during_a_read_are_applied_after_it() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  supabase.latency = 5_000 // the answer is made at once, and arrives late
  page.watching.refresh()
  await clock.advance(1_000)
  const added = supabase.insert()
  supabase.update(tickets[0].id, { status: 'resolved' })
  supabase.delete(tickets[1].id)
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved', 'and are shown meanwhile')
  await clock.advance(5_000)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved')
  assert.equal(page.ticket(tickets[1].id), undefined)
  assert.ok(page.ticket(added.id))
  await page.close()
}

export async function events_with_one_time_apply_in_the_order_of_their_arrival() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  const updated_at = new Date().toISOString()
  for (const status of ['in_progress', 'escalated', 'resolved']) supabase.update(tickets[0].id, { status, updated_at })
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id).status, 'resolved')
  // A transaction that began earlier may change the row later.
  supabase.update(tickets[0].id, { status: 'closed', updated_at: new Date(Date.now() - 60_000).toISOString() })
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id).status, 'closed')
  await page.close()
}

export async function a_ticket_moved_to_another_municipality_leaves_the_list_and_comes_back() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  supabase.update(tickets[0].id, { tenant_id: OTHER_TENANT })
  await clock.advance(100)
  assert.equal(page.ticket(tickets[0].id), undefined)
  supabase.update(tickets[0].id, { tenant_id: TENANT })
  await clock.advance(100)
  assert.ok(page.ticket(tickets[0].id))
  await page.close()
}

export async function a_ticket_that_becomes_sensitive_leaves_a_managers_list_at_once() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  const { reads } = page
  supabase.failReads = true
  supabase.update(tickets[0].id, { is_sensitive: true })
  await clock.advance(50)
  assert.equal(page.ticket(tickets[0].id), undefined)
  supabase.failReads = false
  await clock.advance(10_000)
  assert.ok(page.reads > reads, 'the list says what the manager may see')
  assert.equal(page.ticket(tickets[0].id), undefined)
  const [{ payload }] = page.events
  assert.deepEqual([payload.ticket_id, payload.is_sensitive, payload.status], [tickets[0].id, true, null])
  await page.close()
}

export async function a_redacted_event_never_empties_a_ticket_that_the_policy_shows() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  const { visible } = supabase
  supabase.visible = (claims) => [...supabase.tickets.values()].filter(({ tenant_id }) => tenant_id === claims.app_metadata.tenant_id)
  supabase.update(tickets[0].id, { is_sensitive: true })
  await clock.advance(5_000)
  supabase.update(tickets[0].id, { status: 'escalated' })
  await clock.advance(50)
  assert.equal(page.ticket(tickets[0].id).status, 'open', 'as it was read')
  await clock.advance(5_000)
  assert.equal(page.ticket(tickets[0].id).status, 'escalated')
  supabase.visible = visible
  await page.close()
}

export async function a_police_liaison_follows_both_topics() {
  const topics = [TOPIC, `${TOPIC}:sensitive`]
  const page = await openPage({ email: 'liaison@example.org' })
  const { clock, supabase } = page
  const [ordinary, secret] = [supabase.insert(), supabase.insert({ is_sensitive: true, category: 'gbv' })]
  page.watch({ topics })
  await clock.until(() => page.timesLive === 2, 'both are live')
  await clock.advance(1_000)
  const { reads } = page
  supabase.update(secret.id, { status: 'in_progress' })
  supabase.update(ordinary.id, { is_sensitive: true, category: 'gbv' })
  await clock.advance(50)
  assert.equal(page.ticket(secret.id).status, 'in_progress')
  assert.equal(page.ticket(ordinary.id).category, 'gbv')
  assert.equal(page.ticket(ordinary.id).description, ordinary.description)
  await clock.advance(5_000)
  assert.equal(page.reads, reads, 'the whole event needs no read')
  supabase.delete(secret.id)
  await clock.advance(50)
  assert.equal(page.ticket(secret.id), undefined)
  await page.close()
}

export async function a_truncated_event_of_a_sensitive_ticket_is_answered_by_a_read() {
  const page = await openPage({ email: 'liaison@example.org' })
  const { clock, supabase, realtime } = page
  const ticket = supabase.insert({ is_sensitive: true })
  page.watch({ topics: [TOPIC, `${TOPIC}:sensitive`] })
  await clock.until(() => page.timesLive === 2, 'both are live')
  await clock.advance(1_000)
  realtime.isRateLimited = true
  supabase.update(ticket.id, { status: 'escalated' })
  realtime.isRateLimited = false
  const channel = realtime.channels.find(({ name }) => name.endsWith(':sensitive'))
  const payload = { type: 'UPDATE', ticket_id: ticket.id, status: null, is_sensitive: true, updated_at: Date.now() / 1000, truncated: true }
  channel.broadcast({ id: 'long', topic: channel.name, event: 'UPDATE', payload })
  await clock.advance(2_500)
  assert.equal(page.ticket(ticket.id).status, 'escalated')
  await page.close()
}

export async function a_citizen_receives_their_own_tickets_on_their_own_topic() {
  const page = await openPage({ email: 'citizen@example.org' })
  const { clock, supabase, user } = page
  const ticket = supabase.insert({ user_id: user.id })
  await page.live({ topics: `ticket_owner:${user.id}` })
  assert.equal(page.tickets.length, 1)
  supabase.update(ticket.id, { status: 'resolved' })
  supabase.insert()
  supabase.insert({ user_id: user.id, is_sensitive: true })
  await clock.advance(50)
  assert.equal(page.tickets.length, 1)
  assert.equal(page.ticket(ticket.id).status, 'resolved')
  assert.equal(page.events.length, 1)
  await page.close()
}

export async function a_topic_of_another_user_or_municipality_is_refused() {
  for (const topic of ['ticket_owner:a0000000-0000-0000-0000-000000000001', `ticket_updates:${OTHER_TENANT}`, `${TOPIC}:sensitive`]) {
    const page = await openPage({ email: 'citizen@example.org' })
    page.watch({ topics: topic })
    await page.clock.until(() => page.status === 'refused', topic)
    await page.close()
  }
}

export async function events_of_the_application_reach_on_event_and_not_the_list() {
  const { page } = await livePage()
  const { clock, supabase } = page
  const { tickets } = page
  supabase.publish({ type: 'sla_breach', data: { hours: 4 }, ward_id: 'Ward 5' })
  supabase.publish({ type: 'UPDATED', ticket_id: 'x', updated_at: 1 })
  supabase.publish({ type: 'UPDATE' })
  supabase.publish({ type: 'DELETE', ticket_id: { length: 1 } })
  await clock.advance(100)
  assert.deepEqual(page.tickets, tickets)
  assert.deepEqual(page.events.map(({ event, topic }) => [event, topic]), ['sla_breach', 'UPDATED', 'UPDATE', 'DELETE'].map((event) => [event, TOPIC]))
  await page.close()
}

export async function no_payload_breaks_the_updates() {
  const { page, tickets } = await livePage()
  const { clock, supabase } = page
  const type = 'UPDATE'
  const ticket_id = tickets[0].id
  for (const payload of [
    { type, ticket_id: '__proto__', updated_at: 'yesterday', status: { toString: 'no' } },
    { type, ticket_id, updated_at: 1e300, status: 'open' },
    { type, ticket_id, updated_at: null, status: 'open' },
    { type, ticket_id, is_sensitive: 'maybe' },
    { type: ['INSERT'], ticket_id },
    { type: 'INSERT', ticket_id: '', __proto__: { x: 1 } },
    { type, ticket_id: 'é🦀\u2028'.repeat(1000) },
  ]) supabase.publish(payload)
  for (const channel of page.realtime.channels) {
    for (const payload of [null, 5, 'text', [], {}]) channel.push('broadcast', { type: 'broadcast', event: 'UPDATE', payload })
    channel.push('broadcast', {})
    channel.push('system', {})
  }
  await clock.advance(5_000)
  supabase.update(ticket_id, { status: 'resolved' })
  await clock.advance(100)
  assert.equal(page.ticket(ticket_id).status, 'resolved')
  await clock.advance(67_000)
  assert.equal(page.tickets.length, 3)
  assert.deepEqual([page.status, page.timesLive], ['live', 1])
  await page.close()
}

export async function a_list_with_keep_shows_only_its_tickets() {
  const { page, tickets } = await livePage({}, { keep: ({ ward_id, status }) => ward_id === 'Ward 5' && status !== 'closed' })
  const { clock, supabase } = page
  supabase.insert({ ward_id: 'Ward 6' })
  supabase.update(tickets[0].id, { status: 'closed' })
  await clock.advance(100)
  assert.deepEqual(page.tickets.map(({ id }) => id), [tickets[1].id, tickets[2].id])
  supabase.update(tickets[0].id, { status: 'open' })
  await clock.advance(100)
  assert.equal(page.tickets.length, 3)
  await page.close()
}

export async function a_burst_is_shown_once() {
  const { page } = await livePage()
  const { clock, supabase } = page
  const { shown } = page
  for (let number = 0; number < 2_000; number += 1) supabase.insert()
  await clock.advance(500)
  assert.equal(page.tickets.length, 2_003)
  assert.ok(page.shown - shown < 5, `${page.shown - shown} times`)
  await page.close()
}
