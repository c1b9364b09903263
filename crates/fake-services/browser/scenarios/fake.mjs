// That the fake is like the real server, in the words of supabase-js.

import assert from 'node:assert/strict'
import { TENANT } from '../fake-supabase.mjs'
import { openPage, sleep } from '../page.mjs'

const TOPIC = `ticket_updates:${TENANT}`

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
