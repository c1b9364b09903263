// The code of docs/browsers.md and docs/sql-api.md, as it stands there.

import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { blocks } from '../documents.mjs'
import { openPage } from '../page.mjs'
import { createClient, MODULE } from '../runtime.mjs'

function onlyBlock(language, word) {
  const found = blocks(language, word)
  assert.equal(found.length, 1, `one block with ${word}`)
  return found[0]
}

/** Runs a block as the module of a page, and returns what it exports. Its console and `document` are recorded. */
async function run(page, code) {
  const directory = mkdtempSync(join(tmpdir(), 'pg_civic_docs_'))
  try {
    const modules = join(directory, 'node_modules')
    mkdirSync(join(modules, 'react'), { recursive: true })
    symlinkSync(join(process.env.PG_CIVIC_SUPABASE_JS, 'node_modules', '@supabase'), join(modules, '@supabase'))
    writeFileSync(join(directory, 'package.json'), '{"type": "module"}')
    writeFileSync(join(modules, 'react', 'package.json'), '{"type": "module", "exports": "./index.js"}')
    writeFileSync(join(modules, 'react', 'index.js'), 'export const { useState, useEffect } = globalThis.fakeReact')
    writeFileSync(join(directory, 'ticket-updates.js'), readFileSync(MODULE))
    writeFileSync(join(directory, 'block.js'), code)
    globalThis.fetch = page.supabase.fetch
    globalThis.WebSocket = page.WebSocket
    page.log = []
    console.log = (...words) => page.log.push(words.map((word) => (typeof word === 'string' ? word : JSON.stringify(word))).join(' '))
    let isDone = false
    const block = import(join(directory, 'block.js')).finally(() => { isDone = true })
    block.catch(() => {})
    // Loading modules takes real time, and what they do the test's.
    for (let time = 0; !isDone && time < 10_000; time += 1) await page.clock.advance(10)
    await page.clock.advance(5_000)
    return await block
  } finally {
    rmSync(directory, { recursive: true })
  }
}

const expectLine = (page, pattern) => assert.ok(page.log.some((line) => pattern.test(line)), `${pattern} in\n${page.log.join('\n')}`)

export async function the_dashboard_page_of_the_documentation_runs() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  const first = supabase.insert({ status: 'open' })
  supabase.insert({ status: 'closed' })
  const [status, table] = [{ textContent: '' }, { rows: [] }]
  table.replaceChildren = () => { table.rows = [] }
  table.insertRow = () => {
    const row = []
    table.rows.push(row)
    return { insertCell: () => ({ set textContent(value) { row.push(value) } }) }
  }
  document.querySelector = (selector) => ({ '#status': status, '#tickets': table })[selector]
  globalThis.supabase = { createClient }
  const [, script] = onlyBlock('html', 'watchTickets').split('<script type="module">')
  await run(page, script.split('</script>')[0])
  assert.deepEqual(table.rows, [[first.tracking_number, 'water', 'open']])
  assert.equal(status.textContent, 'live')
  const second = supabase.insert({ category: '<b>roads</b>' })
  supabase.update(first.id, { status: 'closed' })
  await clock.advance(100)
  assert.deepEqual(table.rows, [[second.tracking_number, '<b>roads</b>', 'open']])
  realtime.channels[0].close('Token has expired 1 seconds ago')
  await clock.advance(10)
  assert.equal(status.textContent, 'waiting: Token has expired 1 seconds ago')
  await clock.until(() => status.textContent === 'live', 'it is live again')
}

export async function the_react_hook_of_the_documentation_runs() {
  const page = await openPage()
  let tickets
  let cleanUp
  globalThis.fakeReact = {
    useState: (initial) => [tickets ?? initial, (next) => { tickets = next }],
    useEffect: (effect) => { cleanUp = effect() },
  }
  const { useTickets } = await run(page, onlyBlock('js', 'useTickets'))
  const topic = `ticket_updates:${page.supabase.insert().tenant_id}`
  const load = () => page.client.from('tickets').select('*')
  assert.deepEqual(useTickets(page.client, topic, load), [])
  cleanUp() // React's strict mode runs each effect twice
  useTickets(page.client, topic, load)
  await page.clock.advance(5_000)
  page.supabase.insert()
  await page.clock.advance(100)
  assert.equal(tickets.length, 2)
  cleanUp()
  await page.clock.advance(100)
  assert.equal(page.realtime.channels.length, 0)
}

export async function the_citizens_page_of_the_documentation_runs() {
  const page = await openPage({ email: 'citizen@example.org' })
  const { clock, supabase, user } = page
  const own = supabase.insert({ user_id: user.id })
  await run(page, onlyBlock('js', 'ticket_owner:'))
  expectLine(page, new RegExp(`^\\["${own.tracking_number} open"\\]$`))
  supabase.insert()
  supabase.update(own.id, { status: 'resolved' })
  await clock.advance(100)
  expectLine(page, new RegExp(`^\\["${own.tracking_number} resolved"\\]$`))
}

export async function the_code_without_the_module_runs() {
  const page = await openPage()
  const { clock, supabase, realtime } = page
  const ticket = supabase.insert()
  await run(page, onlyBlock('js', 'replication_ready'))
  expectLine(page, /^SUBSCRIBED/)
  expectLine(page, new RegExp(`^the list .*${ticket.id}`))
  supabase.update(ticket.id, { status: 'resolved' })
  supabase.delete(ticket.id)
  await clock.advance(100)
  expectLine(page, new RegExp(`^UPDATE ${ticket.id} resolved$`))
  expectLine(page, new RegExp(`^DELETE ${ticket.id}`))
  realtime.channels[0].close('Token has expired 1 seconds ago')
  await clock.advance(100)
  expectLine(page, /^the channel will be closed: Token has expired/)
  expectLine(page, /^CLOSED/)
  const missed = supabase.insert()
  await clock.advance(12_000)
  expectLine(page, new RegExp(`^the list .*${missed.id}`))
  realtime.restartDatabase()
  await clock.advance(4_000)
  const lost = supabase.insert()
  await clock.advance(60_000)
  expectLine(page, new RegExp(`^the list .*${lost.id}`))
}

export async function the_page_for_postgres_changes_runs_where_only_private_channels_are_allowed() {
  const page = await openPage({ email: 'citizen@example.org' })
  const { clock, supabase, realtime, user } = page
  realtime.privateOnly = true
  await run(page, onlyBlock('js', 'postgres_changes'))
  expectLine(page, /^SUBSCRIBED/)
  const own = supabase.insert({ user_id: user.id })
  const other = supabase.insert()
  await clock.advance(1_000)
  expectLine(page, new RegExp(`^INSERT ${own.id} open$`))
  assert.ok(!page.log.some((line) => line.includes(other.id)))
}

export async function a_public_page_receives_nothing_from_the_database_and_what_anybody_sends() {
  const page = await openPage()
  const { clock, supabase, client } = page
  const options = { global: { fetch: supabase.fetch }, realtime: { transport: page.WebSocket } }
  const stranger = createClient('https://supabase.example.org', supabase.anonKey, options)
  const topic = `ticket_updates:${supabase.insert().tenant_id}`
  const received = []
  client.channel(topic).on('broadcast', { event: '*' }, ({ payload }) => received.push(payload.status)).subscribe()
  const forger = stranger.channel(topic).subscribe()
  await clock.advance(1_000)
  supabase.insert()
  await clock.advance(1_000)
  assert.deepEqual(received, [])
  forger.send({ type: 'broadcast', event: 'UPDATE', payload: { type: 'UPDATE', status: 'forged' } })
  await clock.advance(1_000)
  assert.deepEqual(received, ['forged'])
  // The module joins the private channel, where nobody else sends.
  client.removeAllChannels()
  await clock.advance(5_000)
  await page.live()
  forger.send({ type: 'broadcast', event: 'UPDATE', payload: { type: 'UPDATE', status: 'forged' } })
  await clock.advance(1_000)
  assert.deepEqual(page.events, [])
}

export async function the_upload_of_the_documentation_runs() {
  const page = await openPage()
  const [calls, stored, others] = [[], [], page.supabase.fetch]
  const target = { bucket: 'evidence', path: 't/f/photo.jpg', file_id: 'f' }
  const replies = { request_upload: target, confirm_upload: { id: 'row' }, get_signed_url: 'https://link' }
  const reply = (body) => new Response(JSON.stringify(body), { headers: { 'content-type': 'application/json' } })
  page.supabase.fetch = async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input)
    const name = url.pathname.match(/\/rest\/v1\/rpc\/(.*)/)?.[1]
    if (name) {
      assert.equal(new Headers(init.headers).get('content-profile'), 'civic')
      calls.push([name, JSON.parse(init.body)])
      return reply(replies[name])
    }
    if (!url.pathname.startsWith('/storage/v1/object/')) return others(input, init)
    stored.push(url.pathname)
    return reply({ Key: 'evidence/t/f/photo.jpg', Id: 'o' })
  }
  const { upload } = await run(page, `${onlyBlock('js', 'request_upload')}\nexport { upload }`)
  const file = new File(['photo'], 'photo.jpg', { type: 'image/jpeg' })
  assert.deepEqual(await upload(file, 'evidence'), { row: { id: 'row' }, link: 'https://link' })
  assert.deepEqual(stored, ['/storage/v1/object/evidence/t/f/photo.jpg'])
  assert.deepEqual(calls, [
    ['request_upload', { filename: 'photo.jpg', content_type: 'image/jpeg', file_size: 5, purpose: 'evidence' }],
    ['confirm_upload', { file_id: 'f', purpose: 'evidence' }],
    ['get_signed_url', { bucket: 'evidence', path: 't/f/photo.jpg', expiry: 600 }],
  ])
}

export async function every_block_of_javascript_in_the_documentation_is_run() {
  const here = readFileSync(new URL(import.meta.url), 'utf8')
  const words = [...here.matchAll(/onlyBlock\('(js|html)', '([^']+)'\)/g)].map(([, language, word]) => [language, word])
  for (const language of ['js', 'html', 'javascript', 'jsx', 'ts', 'tsx']) {
    for (const code of blocks(language)) {
      assert.ok(words.some(([of, word]) => of === language && code.includes(word)), `no scenario runs\n${code}`)
    }
  }
}
