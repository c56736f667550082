//! What is done on the server in one piece: Redis runs a script with nothing else between.
//!
//! `KEYS[1]` is the stream of items, `KEYS[2]` the hash of what is known of the queue (`kind`, `shut`), `KEYS[3]` the hash of what each putter
//! has put last, `KEYS[4]` the set of places of large items.

/// Makes the queue. Arguments: its kind. Gives the kind that it has.
pub(super) const MAKE: &str = "
redis.call('HSETNX', KEYS[2], 'kind', ARGV[1])
local kind = redis.call('HGET', KEYS[2], 'kind')
if kind == ARGV[1] and redis.call('EXISTS', KEYS[1]) == 0 then
    redis.call('XGROUP', 'CREATE', KEYS[1], 'procession', '0', 'MKSTREAM')
elseif kind == ARGV[1] then
    redis.pcall('XGROUP', 'CREATE', KEYS[1], 'procession', '0')
end
return kind";

/// Puts items. Arguments: putter, batch, maxsize (0: none), then items. Gives how many were accepted, and whether the queue is shut down.
/// The same batch again gives the same answer and puts nothing.
pub(super) const PUT: &str = "
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('REMOVED the queue was removed') end
local last = redis.call('HGET', KEYS[3], ARGV[1])
if last then
    local batch, accepted, shut = string.match(last, '^(%S+) (%d+) (%d)$')
    if batch == ARGV[2] then return {tonumber(accepted), tonumber(shut)} end
end
local accepted, shut = 0, redis.call('HEXISTS', KEYS[2], 'shut')
if shut == 0 then
    accepted = #ARGV - 3
    local maxsize = tonumber(ARGV[3])
    if maxsize > 0 then
        accepted = math.max(0, math.min(accepted, maxsize - redis.call('XLEN', KEYS[1])))
    end
    for i = 4, 3 + accepted do redis.call('XADD', KEYS[1], '*', 'item', ARGV[i]) end
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2] .. ' ' .. accepted .. ' ' .. shut)
redis.call('EXPIRE', KEYS[3], 86400)
return {accepted, shut}";

/// Takes items, first what has come back. Arguments: getter, how many. Gives the entries, and whether this is the end.
pub(super) const TAKE: &str = "
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('REMOVED the queue was removed') end
local entries, most = {}, tonumber(ARGV[2])
local back = redis.call('XPENDING', KEYS[1], 'procession', '-', '+', most, 'returned')
for _, one in ipairs(back) do
    local claimed = redis.call('XCLAIM', KEYS[1], 'procession', ARGV[1], 0, one[1])
    if claimed[1] then
        entries[#entries + 1] = claimed[1]
    else
        redis.call('XACK', KEYS[1], 'procession', one[1])
    end
end
if #entries < most then
    local new = redis.call('XREADGROUP', 'GROUP', 'procession', ARGV[1], 'COUNT', most - #entries, 'STREAMS', KEYS[1], '>')
    if new then
        for _, entry in ipairs(new[1][2]) do entries[#entries + 1] = entry end
    end
end
local over = 0
if #entries == 0 and redis.call('HEXISTS', KEYS[2], 'shut') == 1 and redis.call('XLEN', KEYS[1]) == 0 then over = 1 end
return {entries, over}";

/// Removes those that the getter still holds. Arguments: getter, then ids, each followed by the place of its parts or nothing.
pub(super) const DONE: &str = "
for i = 2, #ARGV, 2 do
    if redis.call('XPENDING', KEYS[1], 'procession', ARGV[i], ARGV[i], 1, ARGV[1])[1] then
        redis.call('XACK', KEYS[1], 'procession', ARGV[i])
        redis.call('XDEL', KEYS[1], ARGV[i])
        if ARGV[i + 1] ~= '' then
            redis.call('DEL', KEYS[1] .. '/part/' .. ARGV[i + 1])
            redis.call('SREM', KEYS[4], ARGV[i + 1])
        end
    end
end
return 0";

/// Gives those that the getter still holds to `ARGV[2]`: to itself, which begins their lease anew, or back. Arguments: getter, to whom, ids.
pub(super) const HAND: &str = "
for i = 3, #ARGV do
    if redis.call('XPENDING', KEYS[1], 'procession', ARGV[i], ARGV[i], 1, ARGV[1])[1] then
        redis.call('XCLAIM', KEYS[1], 'procession', ARGV[2], 0, ARGV[i], 'JUSTID')
    end
end
return 0";

/// Takes back what the dead hold, and what was held for longer than the lease. Arguments: the lease in milliseconds, then the dead.
pub(super) const TAKE_BACK: &str = "
for i = 2, #ARGV do
    while true do
        local held = redis.call('XPENDING', KEYS[1], 'procession', '-', '+', 100, ARGV[i])
        if #held == 0 then break end
        for _, one in ipairs(held) do
            redis.call('XCLAIM', KEYS[1], 'procession', 'returned', 0, one[1], 'JUSTID')
            if redis.call('XPENDING', KEYS[1], 'procession', one[1], one[1], 1, ARGV[i])[1] then
                redis.call('XACK', KEYS[1], 'procession', one[1])
            end
        end
    end
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'procession', ARGV[i])
end
local late = redis.call('XPENDING', KEYS[1], 'procession', 'IDLE', ARGV[1], '-', '+', 1000)
for _, one in ipairs(late) do
    if one[2] ~= 'returned' then
        redis.call('XCLAIM', KEYS[1], 'procession', 'returned', 0, one[1], 'JUSTID')
    end
end
return 0";

/// How many there are: in all, held, shut down.
pub(super) const COUNT: &str = "
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('REMOVED the queue was removed') end
local held = 0
local pending = redis.call('XPENDING', KEYS[1], 'procession')
for _, consumer in ipairs(pending[4] or {}) do
    if consumer[1] ~= 'returned' then held = held + tonumber(consumer[2]) end
end
return {redis.call('XLEN', KEYS[1]), held, redis.call('HEXISTS', KEYS[2], 'shut')}";

/// Shuts the queue down. Arguments: 1 to remove what nobody holds.
pub(super) const SHUT_DOWN: &str = "
if redis.call('EXISTS', KEYS[2]) == 0 then return redis.error_reply('REMOVED the queue was removed') end
redis.call('HSET', KEYS[2], 'shut', '1')
while ARGV[1] == '1' do
    local back = redis.call('XPENDING', KEYS[1], 'procession', '-', '+', 100, 'returned')
    for _, one in ipairs(back) do redis.call('XCLAIM', KEYS[1], 'procession', 'dropped', 0, one[1], 'JUSTID') end
    if #back == 0 then
        if not redis.call('XREADGROUP', 'GROUP', 'procession', 'dropped', 'COUNT', 100, 'STREAMS', KEYS[1], '>') then break end
    end
    for _, one in ipairs(redis.call('XPENDING', KEYS[1], 'procession', '-', '+', 100, 'dropped')) do
        local entry = redis.call('XRANGE', KEYS[1], one[1], one[1])[1]
        local item = entry and entry[2][2] or ''
        if string.sub(item, 1, #ARGV[2]) == ARGV[2] then
            local place = string.sub(item, #ARGV[2] + 9)
            redis.call('DEL', KEYS[1] .. '/part/' .. place)
            redis.call('SREM', KEYS[4], place)
        end
        redis.call('XACK', KEYS[1], 'procession', one[1])
        redis.call('XDEL', KEYS[1], one[1])
    end
end
return 0";

/// Removes all that there is of the queue.
pub(super) const REMOVE: &str = "
for _, place in ipairs(redis.call('SMEMBERS', KEYS[4])) do redis.call('DEL', KEYS[1] .. '/part/' .. place) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4])
return 0";
