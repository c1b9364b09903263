// The dashboard of docs/browsers.md in a real browser, over real WebSockets:  node dashboard.mjs CHROMIUM
// The page is served as it stands in the document, but for the address and the key of the project.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { blocks } from '../documents.mjs'
import { FakeRealtime } from '../fake-realtime.mjs'
import { FakeSupabase } from '../fake-supabase.mjs'
import { MODULE } from '../runtime.mjs'
import { inChromium, packages, serve, supabaseJs } from './browser.mjs'

const { WebSocketServer } = createRequire(join(packages, 'ws'))('ws')

const supabase = new FakeSupabase()
const realtime = new FakeRealtime(supabase)
let seen = '' // the text of the page
let visibility = '' // what the page shall become

// The page reports what it shows. A headless page is always visible, so it can be made to seem hidden.
const REPORTER = `<script type="module">
  setInterval(async () => {
    const text = [...document.querySelectorAll('#status, tr')].map((part) => part.textContent).join('\\n')
    const wanted = await (await fetch('/seen', { method: 'POST', body: text })).text()
    if (!wanted || wanted === document.visibilityState) return
    Object.defineProperty(document, 'visibilityState', { value: wanted, configurable: true })
    document.dispatchEvent(new Event('visibilitychange'))
  }, 50)
</script>`

const page = () =>
  blocks('html', 'watchTickets')[0].replace('https://supabase.example.org', origin).replace('the publishable key', supabase.anonKey)

const { server, origin } = await serve(async ({ url, method, headers }, body) => {
  if (url === '/') return ['text/html', page() + REPORTER]
  if (url === '/ticket-updates.js') return ['text/javascript', readFileSync(MODULE)]
  if (url === '/supabase.js') return ['text/javascript', supabaseJs()]
  if (url === '/seen') {
    seen = body
    return ['text/plain', visibility]
  }
  const answer = await supabase.fetch(origin + url, { method, headers, body })
  return ['application/json', await answer.text(), answer.status]
})
new WebSocketServer({ server }).on('connection', (socket, request) => {
  const send = (frame) => socket.send(frame)
  const connection = realtime.connect(origin + request.url, { send, close: () => socket.terminate() })
  if (!connection) return socket.terminate()
  socket.on('message', (data, isBinary) => connection.receive(isBinary ? data : data.toString()))
  socket.on('close', () => realtime.forget(connection))
})

const shows = (ticket, status) => seen.includes(`${ticket.tracking_number}${ticket.category}${status}`)
const isLive = () => seen.startsWith('live')
const first = supabase.insert()

await inChromium(process.argv[2], `${origin}/`, async (expect) => {
  const see = (condition, what) => expect(condition, what, () => seen)
  await see(() => isLive() && shows(first, 'open'), 'the list is read and events flow')

  const second = supabase.insert({ category: '<i>roads</i>' })
  supabase.update(first.id, { status: 'resolved' })
  await see(() => shows(second, 'open') && shows(first, 'resolved'), 'events change the list')
  supabase.delete(second.id)
  await see(() => !seen.includes(second.tracking_number), 'a DELETE removes the ticket')

  realtime.channels[0].close('Token has expired 0 seconds ago')
  await see(() => seen.startsWith('waiting: Token has expired'), 'the channel is closed')
  const third = supabase.insert()
  await see(() => isLive() && shows(third, 'open'), 'it is joined again, and what was missed is read')

  realtime.stop()
  await see(() => seen.startsWith('waiting'), 'the server is gone')
  const fourth = supabase.insert()
  realtime.start()
  await see(() => isLive() && shows(fourth, 'open'), 'the server is back, and what was missed is read')

  visibility = 'hidden'
  await new Promise((done) => setTimeout(done, 500))
  realtime.isRateLimited = true
  const fifth = supabase.insert()
  realtime.isRateLimited = false
  visibility = 'visible'
  await see(() => shows(fifth, 'open'), 'the page becomes visible, and what was missed is read')

  supabase.users.get('thandi@example.org').role = 'citizen'
  realtime.channels[0].close('Token has expired 0 seconds ago')
  await see(() => seen.startsWith('refused: Unauthorized'), 'the role was taken away')
  assert.equal(realtime.channels.length, 0)
})
process.exit(0)
