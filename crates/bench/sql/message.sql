-- One message, and nothing else, in a transaction of its own.
INSERT INTO realtime.messages (payload, event, topic, private, extension)
VALUES ('{"type": "INSERT", "ticket_id": "8f14e45f-0000-4000-8000-000000000000",
          "tracking_number": "TKT-20260211-A1B2C3", "status": "open", "category": "water",
          "municipality_id": "00000000-0000-0000-0000-000000000001", "ward_id": "Ward 5",
          "is_sensitive": false, "updated_at": 1767225600.000000}',
        'INSERT', 'ticket_updates:00000000-0000-0000-0000-000000000001', true, 'broadcast');
