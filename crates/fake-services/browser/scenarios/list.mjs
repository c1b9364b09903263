// What events and reads make of the list.
import assert from 'node:assert/strict'
import { openPage } from '../page.mjs'
import { OTHER_TENANT, TENANT } from '../fake-supabase.mjs'
