// An hour of a municipality, with every fault in random order.

import assert from 'node:assert/strict'
import { OTHER_TENANT, TENANT } from '../fake-supabase.mjs'
import { openPage } from '../page.mjs'
import { seeds } from '../runtime.mjs'

/** Mulberry32: the same hour for the same seed. */
function randomFrom(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** How long after the end of a fault the page may still differ: a minute between two reads, and pauses. */
const RECOVERY = 100_000

async function scriptedHour(seed, email, topicsOf) {
  const random = randomFrom(seed)
  const pick = (list) => list[Math.floor(random() * list.length)]
  // Jitter is part of the script too.
  Math.random = random
  const page = await openPage({ email })
  const { clock, supabase, realtime, user } = page
  for (let number = 0; number < 20; number += 1) supabase.insert({ user_id: pick([null, user.id]) })
  await page.live({ topics: topicsOf(user), keep: (ticket) => ticket.tenant_id === TENANT })
  const claims = { sub: user.id, app_metadata: { tenant_id: TENANT, role: supabase.users.get(email).role } }

  const isCitizen = email.startsWith('citizen')
  const [bulk, rare] = isCitizen ? [0.005, 0.01] : [0.02, 0.3]
  let trouble = 0 // until when the page may differ
  const faults = {
    'Realtime restarts': () => {
      realtime.stop()
      setTimeout(() => realtime.start(), 5_000 + 60_000 * random())
      return 65_000
    },
    'PostgreSQL restarts': () => {
      realtime.restartDatabase(5_000 * random(), 10_000 * random())
      return 15_000
    },
    'the connection breaks': () => {
      realtime.dropConnections()
      return 0
    },
    'the network swallows everything': () => {
      realtime.swallow()
      return 60_000
    },
    'the channel is closed': () => {
      for (const channel of realtime.channels) channel.close('Token has expired 3 seconds ago')
      return 0
    },
    'an import holds up the slot': () => {
      realtime.stop()
      realtime.start()
      supabase.openTransactions += 1
      setTimeout(() => { supabase.openTransactions -= 1 }, 60_000 * random())
      return 90_000
    },
    'the rate limit drops broadcasts': () => {
      realtime.isRateLimited = true
      setTimeout(() => { realtime.isRateLimited = false }, 55_000)
      return 55_000
    },
    'reads fail': () => {
      supabase.failReads = pick([true, 'network'])
      setTimeout(() => { supabase.failReads = false }, 30_000 * random())
      return 30_000
    },
    'reads are slow': () => {
      supabase.latency = 8_000
      setTimeout(() => { supabase.latency = 20 }, 60_000)
      return 70_000
    },
    'the page is hidden': () => {
      page.show('hidden')
      setTimeout(() => page.show('visible'), 60_000 * random())
      return 60_000
    },
    'the role is taken away for a while': () => {
      const person = supabase.users.get(email)
      const { role } = person
      if (role === 'citizen') return 0
      person.role = 'field_worker'
      page.client.auth.refreshSession()
      setTimeout(() => { person.role = role }, 20_000)
      setTimeout(() => page.show('visible'), 40_000)
      return 60_000
    },
  }

  const changes = {
    insert: () => supabase.insert({ user_id: pick([null, user.id]), is_sensitive: random() < 0.1 }),
    update: (row) => supabase.update(row.id, { status: pick(['open', 'in_progress', 'escalated', 'resolved']) }),
    delete: (row) => supabase.delete(row.id),
    move: (row) => supabase.update(row.id, { tenant_id: row.tenant_id === TENANT ? OTHER_TENANT : TENANT }),
    'become sensitive, or ordinary': (row) => supabase.update(row.id, { is_sensitive: !row.is_sensitive }),
    'bulk import': () => {
      // One event for all of them.
      const { isRateLimited } = realtime
      realtime.isRateLimited = true
      for (let number = 0; number < 40; number += 1) supabase.insert({ user_id: user.id })
      realtime.isRateLimited = isRateLimited
      supabase.publish({ type: 'BULK' })
    },
  }

  const columns = ['id', 'status', 'category', 'ward_id', 'tracking_number']
  const shape = (rows) => rows.map((row) => columns.map((column) => row[column]).join(' ')).sort()
  const differs = () => shape(page.tickets).join('\n') !== shape(supabase.visible(claims)).join('\n')

  const end = Date.now() + 3_600_000
  let nextFault = Date.now() + 60_000
  let [written, compared] = [0, 0]
  const happened = new Set()
  while (Date.now() < end) {
    await clock.advance(200 + 4_000 * random())
    if (supabase.databaseUp) {
      const dice = random()
      const name = dice < bulk ? 'bulk import' : dice < rare ? pick(['move', 'become sensitive, or ordinary']) : pick(['insert', 'update', 'update', 'delete'])
      const row = pick([...supabase.tickets.values()])
      // No event tells citizens that they may not see a ticket any more, or of an import.
      if (isCitizen && dice < rare) trouble = Math.max(trouble, Date.now() + 67_000)
      if (row || name === 'insert') {
        changes[name](row)
        written += 1
      }
    }
    if (Date.now() >= nextFault) {
      const name = pick(Object.keys(faults))
      happened.add(name)
      trouble = Math.max(trouble, Date.now() + faults[name]() + RECOVERY)
      // Some faults overlap, and now and then there is peace.
      nextFault = Date.now() + 20_000 + 200_000 * random()
      page.lastFault = name
    }
    if (Date.now() > trouble) {
      // A ticket that is sensitive, or ceases to be, is read after up to two seconds.
      const until = Date.now() + 3_000
      while (differs() && Date.now() < until) await clock.advance(100)
      assert.ok(!differs(), `seed ${seed}: ${new Date().toISOString()}, after "${page.lastFault}", ${page.status}`)
      compared += 1
    }
  }
  await clock.advance(90_000 + RECOVERY)
  assert.deepEqual(shape(page.tickets), shape(supabase.visible(claims)), `seed ${seed}: at the end`)
  await page.close()
  return { written, compared, happened, faults: Object.keys(faults) }
}

async function hours(email, topicsOf) {
  const happened = new Set()
  let faults
  for (const seed of seeds) {
    const hour = await scriptedHour(seed, email, topicsOf)
    assert.ok(hour.written > 500 && hour.compared > 50, `${hour.written} changes, ${hour.compared} comparisons`)
    for (const name of hour.happened) happened.add(name)
    faults = hour.faults
  }
  if (seeds.length > 2) assert.deepEqual([...happened].sort(), faults.sort(), 'every fault has happened')
}

export const no_event_of_a_scripted_hour_is_missing_at_the_end = () => hours('thandi@example.org', () => `ticket_updates:${TENANT}`)

export const no_event_of_a_liaisons_hour_is_missing_at_the_end = () =>
  hours('liaison@example.org', () => [`ticket_updates:${TENANT}`, `ticket_updates:${TENANT}:sensitive`])

export const no_event_of_a_citizens_hour_is_missing_at_the_end = () => hours('citizen@example.org', (user) => `ticket_owner:${user.id}`)
