// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {Caller, IAtomicMailbox, Message} from "./IAtomicMailbox.sol";

/// @title Messages between the legs of an atomic bundle
/// @dev One session at a time: a block has one root, thus at most one ticket. All calls but `open` only
/// compare block numbers, because a session that was opened in this block has this block's ticket.
contract AtomicMailbox is IAtomicMailbox {
    /// @dev Gives the root of the block with a timestamp (EIP-4788).
    address private constant BEACON_ROOTS = 0x000F3df6D732807Ef1319fB7B8bB8522d0Beac02;

    /// @dev The sessions that have ever been opened.
    mapping(bytes32 session => bool) private _used;

    bytes32 private _session;
    bytes32 private _rollupId;
    address private _caller;

    /// @dev The block that the session is open in; 0 once it is closed.
    uint64 private _openIn;
    uint64 private _sent;
    uint64 private _received;
    uint64 private _inboxLength;

    /// @dev Not an array: nobody pays for clearing what a longer inbox has left behind.
    mapping(uint64 index => bytes32 messageHash) private _inbox;

    /// @inheritdoc IAtomicMailbox
    function open(
        bytes32 chainIdHash,
        bytes32 rollupId,
        bytes32 salt,
        Caller[] calldata callers,
        bytes32[] calldata inbox
    ) external returns (bytes32 session) {
        session = keccak256(abi.encode(salt, callers));
        bytes32 inboxHash = keccak256(abi.encodePacked(inbox));
        bytes32 ticket =
            keccak256(abi.encode("COUNTERPOINT_TICKET_V1", chainIdHash, rollupId, session, inboxHash));
        if (_beaconRoot() != ticket) revert NoTicket(ticket);
        address caller = _callerOn(rollupId, callers);
        if (msg.sender != caller) revert NotCaller(caller);
        if (_used[session]) revert SessionUsed(session);

        _used[session] = true;
        (_session, _rollupId, _caller) = (session, rollupId, caller);
        (_openIn, _sent, _received) = (uint64(block.number), 0, 0);
        _inboxLength = uint64(inbox.length);
        for (uint64 i = 0; i < inbox.length; ++i) {
            _inbox[i] = inbox[i];
        }
        emit SessionOpened(session, rollupId, caller);
    }

    /// @inheritdoc IAtomicMailbox
    function send(bytes32 session, bytes32 dst, address receiver, bytes calldata data)
        external
        returns (uint64 index)
    {
        if (session != sessionId()) revert NotOpen();
        bytes32 src = _rollupId;
        if (dst == src) revert OwnRollup();
        index = _sent++;
        Message memory message = Message(src, dst, index, msg.sender, receiver, data);
        emit MessageSent(session, _hash(message), message);
    }

    /// @inheritdoc IAtomicMailbox
    function receiveMessage(Message calldata message) external {
        bytes32 session = sessionId();
        uint64 next = _received;
        if (next == _inboxLength) revert InboxEmpty();
        bytes32 expected = _inbox[next];
        if (_hash(message) != expected) revert NotNext(expected);
        if (msg.sender != message.receiver) revert NotReceiver(message.receiver);
        _received = next + 1;
        emit MessageReceived(session, expected);
    }

    /// @inheritdoc IAtomicMailbox
    function close() external {
        bytes32 session = sessionId();
        if (msg.sender != _caller) revert NotCaller(_caller);
        if (_received != _inboxLength) revert Unread(_inboxLength - _received);
        _openIn = 0;
        emit SessionClosed(session);
    }

    /// @inheritdoc IAtomicMailbox
    function sessionId() public view returns (bytes32 session) {
        if (_openIn != block.number) revert NotOpen();
        return _session;
    }

    /// @dev This block's root, or 0 if the contract that knows it is not there.
    function _beaconRoot() private view returns (bytes32 root) {
        (bool known, bytes memory answer) = BEACON_ROOTS.staticcall(abi.encode(block.timestamp));
        return known ? bytes32(answer) : bytes32(0);
    }

    function _callerOn(bytes32 rollupId, Caller[] calldata callers) private pure returns (address) {
        for (uint256 i = 0; i < callers.length; ++i) {
            if (callers[i].rollupId == rollupId) return callers[i].caller;
        }
        return address(0);
    }

    function _hash(Message memory message) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                message.src,
                message.dst,
                uint256(message.index),
                message.sender,
                message.receiver,
                keccak256(message.data)
            )
        );
    }
}
