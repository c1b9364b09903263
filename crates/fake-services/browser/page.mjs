// A page in which the module runs with the real supabase-js, against the fake services and on the test's clock.

import { installClock } from './clock.mjs'
import { FakeRealtime, fakeWebSocket } from './fake-realtime.mjs'
import { FakeSupabase, TENANT } from './fake-supabase.mjs'
import { createClient, loadModule, setVisibility } from './runtime.mjs'

export async function openPage({ email = 'thandi@example.org' } = {}) {
  const clock = installClock()
  const supabase = new FakeSupabase()
  const realtime = new FakeRealtime(supabase)
  const transport = fakeWebSocket(realtime)
  setVisibility('visible')
  const { watchTickets } = await loadModule()
  const client = createClient('https://supabase.example.org', supabase.anonKey, {
    global: { fetch: supabase.fetch },
    realtime: { transport },
  })
  const signIn = client.auth.signInWithPassword({ email, password: 'secret' })
  await clock.advance(1_000)
  const { data, error } = await signIn
  if (error) throw error

  const page = {
    clock, supabase, realtime, client, watchTickets, WebSocket: transport,
    user: data.user, tickets: undefined, shown: 0, events: [], statuses: [], errors: [],
    /** The last status of the topic. */
    get status() {
      return page.statuses.at(-1)?.status
    },
    /** How often the list was read. */
    get reads() {
      return supabase.requests.filter(({ path }) => path === '/rest/v1/tickets').length
    },
    get timesLive() {
      return page.statuses.filter(({ status }) => status === 'live').length
    },
    watch(options = {}) {
      page.watching = watchTickets({
        supabase: client,
        topics: `ticket_updates:${TENANT}`,
        load: ({ signal }) => client.from('tickets').select('*').abortSignal(signal),
        onTickets: (tickets) => {
          page.tickets = tickets
          page.shown += 1
        },
        onEvent: (event) => page.events.push(event),
        onStatus: (status) => page.statuses.push(status),
        onError: (problem) => page.errors.push(problem),
        ...options,
      })
      return page.watching
    },
    /** Watches, and waits until events flow and the list was read after that. */
    async live(options) {
      page.watch(options)
      await clock.until(() => page.status === 'live', 'the channel is live')
      await clock.advance(1_000)
    },
    show(visibilityState) {
      setVisibility(visibilityState)
      document.dispatchEvent(new Event('visibilitychange'))
    },
    ticket: (id) => page.tickets?.find((ticket) => ticket.id === id),
    /** Nothing of the module may be left behind. */
    async close() {
      page.watching?.stop()
      client.removeAllChannels()
      client.auth.stopAutoRefresh()
      await clock.advance(60_000)
    },
  }
  return page
}

/** The page as it is, with the list read once and nothing on the way. */
export async function livePage(options, watch) {
  const page = await openPage(options)
  const tickets = [1, 2, 3].map(() => page.supabase.insert())
  await page.live(watch)
  return { page, tickets }
}

/** supabase-js does not renew the token, as in a computer that sleeps, until the returned function is called. */
export function sleep({ client }) {
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
export function countJoins({ realtime }) {
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
