// The dashboard of docs/browsers.md in a real browser, over real WebSockets:  node chromium.mjs CHROMIUM
// The page is served as it stands in the document, but for the address of the project.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { blocks } from './documents.mjs'
import { FakeRealtime } from './fake-realtime.mjs'
import { FakeSupabase } from './fake-supabase.mjs'
import { MODULE } from './page.mjs'

const DEADLINE = 120_000
const [chromium] = process.argv.slice(2)
const packages = join(process.env.PG_CIVIC_SUPABASE_JS, 'node_modules')
const { WebSocketServer } = createRequire(join(packages, 'ws'))('ws')

const supabase = new FakeSupabase()
const realtime = new FakeRealtime(supabase)
let seen = '' // the text of the page
let visibility // what the page shall become

// The page reports what it shows. A headless page is always visible, so it is told when to seem hidden.
const REPORTER = `<script type="module">
  setInterval(async () => {
    const text = [...document.querySelectorAll('#status, tr')].map((part) => part.textContent).join('\\n')
    const wanted = await (await fetch('/seen', { method: 'POST', body: text })).text()
    if (!wanted || wanted === document.visibilityState) return
    Object.defineProperty(document, 'visibilityState', { value: wanted, configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
  }, 50)
</script>`

const files = {
  '/': ['text/html', () => blocks('html', 'watchTickets')[0].replace('https://supabase.example.org', origin).replace('the publishable key', supabase.anonKey) + REPORTER],
  '/ticket-updates.js': ['text/javascript', () => readFileSync(MODULE)],
  '/supabase.js': ['text/javascript', () => readFileSync(join(packages, '@supabase/supabase-js/dist/umd/supabase.js'))],
}

const server = createServer(async (request, response) => {
  const parts = []
  for await (const part of request) parts.push(part)
  const body = Buffer.concat(parts).toString()
  if (files[request.url]) {
    const [type, content] = files[request.url]
    response.writeHead(200, { 'content-type': type }).end(content())
  } else if (request.url === '/seen') {
    seen = body
    response.end(visibility ?? '')
  } else {
    const answer = await supabase.fetch(origin + request.url, { method: request.method, headers: request.headers, body })
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(await answer.text())
  }
})
new WebSocketServer({ server }).on('connection', (socket, request) => {
  const send = (frame) => socket.send(frame)
  const connection = realtime.connect(origin + request.url, { send, close: () => socket.terminate() })
  if (!connection) return socket.terminate()
  socket.on('message', (data, isBinary) => connection.receive(isBinary ? data : data.toString()))
  socket.on('close', () => realtime.forget(connection))
})
await new Promise((done) => server.listen(0, '127.0.0.1', done))
const origin = `http://127.0.0.1:${server.address().port}`

async function expect(condition, what) {
  const deadline = Date.now() + DEADLINE
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not within ${DEADLINE / 1000} s: ${what}\nthe page:\n${seen}\n${output}`)
    await new Promise((done) => setTimeout(done, 20))
  }
}
const shows = (ticket, status) => seen.includes(`${ticket.tracking_number}${ticket.category}${status}`)
const isLive = () => seen.startsWith('live')

const first = supabase.insert()
const profile = mkdtempSync(join(tmpdir(), 'pg_civic_chromium_'))
const browser = spawn(chromium, ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', `--user-data-dir=${profile}`, '--enable-logging=stderr', `${origin}/`], { detached: true })
let output = ''
browser.stderr.on('data', (data) => {
  output = (output + data).slice(-4_000)
})
const exited = new Promise((done) => browser.on('exit', done))
try {
  await expect(() => isLive() && shows(first, 'open'), 'the list is read and events flow')

  const second = supabase.insert({ category: '<i>roads</i>' })
  supabase.update(first.id, { status: 'resolved' })
  await expect(() => shows(second, 'open') && shows(first, 'resolved'), 'events change the list')
  supabase.delete(second.id)
  await expect(() => !seen.includes(second.tracking_number), 'a DELETE removes the ticket')

  realtime.channels[0].close('Token has expired 0 seconds ago')
  await expect(() => seen.startsWith('waiting: Token has expired'), 'the channel is closed')
  const third = supabase.insert()
  await expect(() => isLive() && shows(third, 'open'), 'it is joined again, and what was missed is read')

  realtime.stop()
  await expect(() => seen.startsWith('waiting'), 'the server is gone')
  const fourth = supabase.insert()
  realtime.start()
  await expect(() => isLive() && shows(fourth, 'open'), 'the server is back, and what was missed is read')

  visibility = 'hidden'
  await new Promise((done) => setTimeout(done, 500))
  realtime.isRateLimited = true
  const fifth = supabase.insert()
  realtime.isRateLimited = false
  visibility = 'visible'
  await expect(() => shows(fifth, 'open'), 'the page becomes visible, and what was missed is read')

  supabase.users.get('thandi@example.org').role = 'citizen'
  realtime.channels[0].close('Token has expired 0 seconds ago')
  await expect(() => seen.startsWith('refused: Unauthorized'), 'the role was taken away')
  assert.equal(realtime.channels.length, 0)
} finally {
  process.kill(-browser.pid, 'SIGKILL')
  await exited
  rmSync(profile, { recursive: true, maxRetries: 10, retryDelay: 100 })
}
process.exit(0)
