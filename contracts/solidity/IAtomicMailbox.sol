// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity ^0.8.20;

/// @notice Who may open a session on one of the rollups that it spans.
struct Caller {
    bytes32 rollupId;
    address caller;
}

/// @notice What a leg on one rollup tells a leg on another.
/// @dev Rollups go by the sequencer's rollup id, never by their chain id.
struct Message {
    /// The rollup that it is sent on.
    bytes32 src;
    /// The rollup that it is received on.
    bytes32 dst;
    /// How many messages the session had sent on `src` before.
    uint64 index;
    /// Who called `send`.
    address sender;
    /// Who must call `receiveMessage`.
    address receiver;
    bytes data;
}

/// @title Messages between the legs of an atomic bundle
/// @notice When the sequencer releases a bundle, the block of each of its rollups carries a ticket as
/// its parent beacon block root (EIP-4788):
///
///     keccak256(abi.encode("COUNTERPOINT_TICKET_V1", chainIdHash, rollupId, session, inboxHash))
///
/// with `session = keccak256(abi.encode(salt, callers))`, `inboxHash` over the hashes of all messages
/// that are to be received here, one after another, and the hash of a message
///
///     keccak256(abi.encode(src, dst, uint256(index), sender, receiver, keccak256(data)))
///
/// Only the sequencer chain writes the roots of this rollup, so whoever can show a ticket's parts may
/// trust that every leg is executed now, or none ever. A session lives in that one block.
interface IAtomicMailbox {
    event SessionOpened(bytes32 indexed session, bytes32 rollupId, address caller);
    event MessageSent(bytes32 indexed session, bytes32 indexed messageHash, Message message);
    event MessageReceived(bytes32 indexed session, bytes32 indexed messageHash);
    event SessionClosed(bytes32 indexed session);

    /// @notice This block's beacon root is not the ticket that the arguments make.
    error NoTicket(bytes32 expected);
    /// @notice Somebody else opens the session on this rollup, and closes it.
    error NotCaller(address expected);
    /// @notice A session is opened once, for ever.
    error SessionUsed(bytes32 session);
    /// @notice No session is open in this block, or another one.
    error NotOpen();
    /// @notice A message goes to another rollup.
    error OwnRollup();
    /// @notice All messages have been received.
    error InboxEmpty();
    /// @notice Another message is to be received first.
    error NotNext(bytes32 expected);
    /// @notice The message is for somebody else.
    error NotReceiver(address expected);
    /// @notice So many messages have not been received.
    error Unread(uint64 count);

    /// @notice Opens the session that this block was made for. Once, by the caller named for this rollup.
    /// @param chainIdHash keccak256 of the sequencer's chain id.
    /// @param rollupId This rollup: only its own ticket can be in its blocks.
    /// @param salt The session's salt.
    /// @param callers Who may open it where, sorted by rollup id.
    /// @param inbox The hashes of the messages to this rollup, in the bundle's order.
    /// @return session The session's id.
    function open(
        bytes32 chainIdHash,
        bytes32 rollupId,
        bytes32 salt,
        Caller[] calldata callers,
        bytes32[] calldata inbox
    ) external returns (bytes32 session);

    /// @notice Sends a message from whoever calls.
    /// @param session The session that it belongs to. It is named, so that a transaction taken out of
    /// its bundle does nothing in somebody else's session.
    /// @param dst The rollup that it goes to.
    /// @param receiver Who receives it there.
    /// @param data Anything.
    /// @return index Its place among the messages sent in this session.
    function send(bytes32 session, bytes32 dst, address receiver, bytes calldata data)
        external
        returns (uint64 index);

    /// @notice Takes the next message out of the inbox, for the receiver that calls. Having returned,
    /// the message is true: `message.sender` sent it on `message.src` in this session.
    /// @dev The mailbox calls nobody: a receiver fetches its messages.
    function receiveMessage(Message calldata message) external;

    /// @notice Closes the session, by whoever opened it, when all messages are received.
    function close() external;

    /// @notice The session that is open in this block; reverts if there is none.
    function sessionId() external view returns (bytes32 session);
}
