// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.37;

import {IAtomicMailbox, Message} from "./IAtomicMailbox.sol";

/// @title A token on several rollups: burnt on one and minted on another in one atomic step
/// @notice A sample. Deployed by CREATE2 with the same arguments it has the same address everywhere, so
/// that its peers are this address on the rollups that were named, and on no other: whoever starts a
/// rollup may put any code at any address of it.
/// @dev It has no owner. Peers must trust one another's attesters, as everyone who takes messages does.
contract AtomicToken {
    /// @notice Where messages between rollups come from.
    IAtomicMailbox public immutable mailbox;

    string public name;
    string public symbol;
    uint8 public constant decimals = 18;

    uint256 public totalSupply;
    mapping(address account => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    /// @notice The rollups that the token lives on.
    mapping(bytes32 rollupId => bool) public isHome;

    event Transfer(address indexed from, address indexed to, uint256 amount);
    event Approval(address indexed owner, address indexed spender, uint256 amount);

    /// @notice The account has less than it is to give.
    error InsufficientBalance(address account, uint256 balance);
    /// @notice The spender may take less than that.
    error InsufficientAllowance(address spender, uint256 allowance);
    /// @notice Nobody has this address.
    error InvalidReceiver();
    /// @notice The token does not live on this rollup.
    error UnknownRollup(bytes32 rollupId);
    /// @notice The message is not from this token.
    error UnknownSender(address sender);

    /// @param mailbox_ The mailbox of every rollup.
    /// @param name_ The token's name.
    /// @param symbol_ Its symbol.
    /// @param rollups The rollups that it lives on.
    /// @param issuerChainId The EVM chain id of the rollup on which the supply is created.
    /// @param issuer Who gets the supply.
    /// @param supply All that there will ever be.
    constructor(
        IAtomicMailbox mailbox_,
        string memory name_,
        string memory symbol_,
        bytes32[] memory rollups,
        uint256 issuerChainId,
        address issuer,
        uint256 supply
    ) {
        (mailbox, name, symbol) = (mailbox_, name_, symbol_);
        for (uint256 i = 0; i < rollups.length; ++i) {
            isHome[rollups[i]] = true;
        }
        if (block.chainid == issuerChainId) _mint(issuer, supply);
    }

    /// @notice Burns the sender's tokens here, to be minted for `to` on rollup `dst`.
    /// @param session The open session. If `mint` does not follow on `dst`, nothing has happened here.
    function burn(bytes32 session, bytes32 dst, address to, uint256 amount) external {
        if (!isHome[dst]) revert UnknownRollup(dst);
        if (to == address(0)) revert InvalidReceiver();
        _debit(msg.sender, amount);
        totalSupply -= amount;
        emit Transfer(msg.sender, address(0), amount);
        mailbox.send(session, dst, address(this), abi.encode(to, amount));
    }

    /// @notice Mints what was burnt on another rollup. Anybody may call it: the message says for whom.
    function mint(Message calldata message) external {
        if (!isHome[message.src]) revert UnknownRollup(message.src);
        if (message.sender != address(this)) revert UnknownSender(message.sender);
        mailbox.receiveMessage(message);
        (address to, uint256 amount) = abi.decode(message.data, (address, uint256));
        _mint(to, amount);
    }

    /// @notice Moves the sender's tokens.
    function transfer(address to, uint256 amount) external returns (bool) {
        _move(msg.sender, to, amount);
        return true;
    }

    /// @notice Lets a spender take tokens of the sender.
    function approve(address spender, uint256 amount) external returns (bool) {
        allowance[msg.sender][spender] = amount;
        emit Approval(msg.sender, spender, amount);
        return true;
    }

    /// @notice Moves tokens of somebody who has approved of it.
    function transferFrom(address from, address to, uint256 amount) external returns (bool) {
        uint256 allowed = allowance[from][msg.sender];
        if (allowed < amount) revert InsufficientAllowance(msg.sender, allowed);
        if (allowed != type(uint256).max) allowance[from][msg.sender] = allowed - amount;
        _move(from, to, amount);
        return true;
    }

    function _move(address from, address to, uint256 amount) private {
        if (to == address(0)) revert InvalidReceiver();
        _debit(from, amount);
        balanceOf[to] += amount;
        emit Transfer(from, to, amount);
    }

    function _mint(address to, uint256 amount) private {
        totalSupply += amount;
        balanceOf[to] += amount;
        emit Transfer(address(0), to, amount);
    }

    function _debit(address from, uint256 amount) private {
        uint256 balance = balanceOf[from];
        if (balance < amount) revert InsufficientBalance(from, balance);
        balanceOf[from] = balance - amount;
    }
}
